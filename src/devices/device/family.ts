/** Which kernels of plans for different shapes are compiled as one. */
import type { Program } from "../../compiler/plan/plan.ts";
import { type Lifted, spellGeneric, takeApart, valuesOf } from "../../compiler/render/shape-uniforms.ts";

/** More numbers than this are not lifted: kernels that differ in so many are not of one kind. */
const mostLifted = 256;

/** A kernel as it is compiled. */
export interface Code {
  readonly source: string;
  /** What its uniform holds, bound behind the buffers; undefined for a kernel with all its numbers spelled out. */
  readonly values: Uint32Array<ArrayBuffer> | undefined;
}

/**
 * Plans of one computation for different shapes. The first shape gets kernels of its own, with all their numbers known to the
 * driver. From the second one on, numbers in which kernels of one form differ are values of a uniform, so that the next
 * shape compiles nothing, or only what is new about it. In a family that gathers, plans that are loaded together share kernels
 * from the start.
 */
export class PlanFamily {
  /** Whether kernels wait for what is loaded in the same turn of the event loop. */
  readonly gathers: boolean;
  readonly #forms = new Map<string, Map<string, Form>>();
  /** Kernels for another shape, which are not loaded: by them it is known in what those of the first varying plan vary. */
  example: readonly Program[] | undefined;
  readonly #exampleMet = new Set<string>();

  constructor({ gathers = false } = {}) {
    this.gathers = gathers;
  }

  /**
   * The kernels of one plan; how each is compiled is to be asked once all plans that are loaded together were given. `scope`
   * names what shares kernels: a device, or all of an adapter.
   */
  meet(scope: string, programs: readonly Program[]): (() => Code)[] {
    let forms = this.#forms.get(scope);
    if (forms === undefined) this.#forms.set(scope, forms = new Map());
    if (this.example !== undefined && !this.#exampleMet.has(scope)) {
      this.#exampleMet.add(scope);
      this.#add(forms, this.example);
    }
    return this.#add(forms, programs);
  }

  #add(forms: Map<string, Form>, programs: readonly Program[]): (() => Code)[] {
    const counts = new Map<string, number>();
    return programs.map(({ source, bindings }) => {
      const { form: text, numbers } = takeApart(source);
      // Two kernels of a plan, of layers of two widths say, differ in more than what the shape of an input changes.
      const count = counts.get(text) ?? 0;
      counts.set(text, count + 1);
      const key = `${count} ${text}`;
      let form = forms.get(key);
      if (form === undefined) forms.set(key, form = new Form(numbers));
      else form.join(numbers);
      const own = form;
      return () => own.code(source, numbers, bindings.length);
    });
  }
}

/** Kernels that differ in numbers only. */
class Form {
  readonly #first: readonly string[];
  /** Of each number its value of the uniform; -1 while all kernels have the same one. */
  #lifted: Lifted;

  constructor(numbers: readonly string[]) {
    this.#first = numbers;
    this.#lifted = numbers.map(() => -1);
  }

  join(numbers: readonly string[]): void {
    // Places that had equal numbers in all kernels so far are one value.
    const values = new Map<string, number>();
    this.#lifted = numbers.map((number, i) => {
      const before = this.#lifted[i]!;
      if (before < 0 && number === this.#first[i]) return -1;
      const key = `${before < 0 ? this.#first[i] : before} ${number}`;
      if (!values.has(key)) values.set(key, values.size);
      return values.get(key)!;
    });
  }

  code(source: string, numbers: readonly string[], binding: number): Code {
    const count = Math.max(-1, ...this.#lifted) + 1;
    if (count === 0 || count > mostLifted) return { source, values: undefined };
    return { source: spellGeneric(source, this.#lifted, binding), values: valuesOf(numbers, this.#lifted) };
  }
}
