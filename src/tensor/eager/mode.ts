/** Training or evaluation: of a module, and of what is traced of it. */
import { currentFrame } from "./frame.ts";

/** Modes as a trace found them, or as it is to find them. */
export type Modes = ReadonlyMap<Mode, boolean>;

/** Whether something trains. */
export class Mode {
  /** What has it, in the words of an error. */
  readonly owner: string;
  #on = true;

  constructor(owner: string) {
    this.owner = owner;
  }

  /**
   * Inside a trace, as the trace has it: what it was made for, or what was set in it; else what is set outside, which then is
   * part of the trace's key. What is set inside a trace holds for the rest of it, and is forgotten with it.
   */
  get on(): boolean {
    const frame = currentFrame();
    if (frame === undefined) return this.#on;
    const given = frame.modes.get(this);
    if (given !== undefined) return given;
    frame.consulted.set(this, this.#on);
    return this.#on;
  }

  set on(on: boolean) {
    const frame = currentFrame();
    if (frame === undefined) this.#on = on;
    else frame.modes.set(this, on);
  }
}

/** Whether these are the modes now. To be called outside of traces. */
export function areModes(modes: Modes): boolean {
  for (const [mode, on] of modes) if (mode.on !== on) return false;
  return true;
}
