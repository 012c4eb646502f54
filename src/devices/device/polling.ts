import { dontWaitFor, inLaterTurn } from "../../host/host.ts";

/**
 * Dawn's Node binding polls with `setImmediate` as long as a promise of it is pending, and so burns a core while
 * the GPU works; where the GPU is the CPU, that is a core less for the kernels. It looks the function up on
 * `globalThis` at each poll, so that another one can stand in: it spins for a moment after a submission, which is
 * what short work needs, then sleeps a little before each poll, and less and less often polls the longer the work takes.
 * Sleep of less than a millisecond, the shortest timer, stops the thread: it is short against the work that is waited for,
 * and there is none where the program has set immediates of its own, which would wait, too.
 * Only Dawn's own callbacks, which are native functions, are slowed. The policy is in place while software devices and no others
 * are open: a real GPU is waited for without delay.
 *
 * It is in place, too, while there are devices that were given up. What is asked of such a one may never be answered, and by
 * `setImmediate` Dawn would keep the process from ending, and a core busy, for ever: its instance is polled seldom, by timers
 * for which no process waits.
 */

type SetImmediate = (callback: (...args: unknown[]) => void, ...args: unknown[]) => unknown;

/** Milliseconds after a submission in which polling is immediate. */
const spinning = 0.3;
/** The time between two polls is this part of the time since the submission, between these two lengths in milliseconds. */
const patience = 1 / 16;
const shortest = 0.05;
const longest = 4;
/** That length for a device that was given up. */
const longestAside = 1000;
/** Milliseconds of the shortest timer. */
const timer = 1;

const host = globalThis as unknown as { setImmediate?: SetImmediate };

/** The polls of one instance of Dawn's: each sets the next one. */
interface Chain {
  /** The poll that is set, and the runtime's handle of it. */
  next: { readonly poll: () => void; readonly handle: unknown } | undefined;
  /** Since when nobody waits for what it brings, by `performance.now()`. */
  aside: number | undefined;
}

let softwareDevices = 0;
let hardwareDevices = 0;
let submitted = 0;
let original: SetImmediate | undefined;
let replacement: SetImmediate | undefined;

/** Tells that work was just submitted. */
export function markSubmission(): void {
  submitted = performance.now();
}

/** Counts a device of Dawn's as open, until the function that is returned is called. */
export function pollFor(software: boolean): () => void {
  let open = true;
  count(software, 1);
  return () => {
    if (!open) return;
    open = false;
    count(software, -1);
  };
}

let eager = 0;

/** Polls without a pause until the function that is returned is called: for wall times of kernels. */
export function pollEagerly(): () => void {
  eager++;
  let on = true;
  return () => {
    if (on) eager--;
    on = false;
  };
}

let devicesAside = 0;
/** The chain of which a poll runs now. */
let polling: Chain | undefined;
/** While more than 0, each reaction to what a poll brings finds the poll's chain in `bringing`. */
let tracingReactions = 0;
let bringing: Chain | undefined;
/** How often a chain is looked for. The first time finds it, where polls bring what is asked for at once. */
const attempts = 10;

/**
 * Goes on polling for the instance of a device that was given up, until the function that is returned is called. `ask` asks
 * that device for something that the instance's next poll brings, whatever the device does, and gives the promise of Dawn's.
 */
export function pollAside(ask: () => Promise<unknown>): () => void {
  let over = false;
  let chain: Chain | undefined;
  const look = (left: number) => {
    // Polls that were set before the policy was in place have run by then, and set others that are known.
    inLaterTurn(() => {
      if (over || left === 0) return;
      tracingReactions++;
      const brought = () => {
        tracingReactions--;
        if (over) return;
        chain = bringing;
        if (chain === undefined) return look(left - 1);
        chain.aside = performance.now();
        dontWaitFor(chain.next?.handle);
      };
      ask().then(brought, brought);
    });
  };
  devicesAside++;
  update();
  look(attempts);
  return () => {
    if (over) return;
    over = true;
    if (chain !== undefined) {
      // The instance may serve again.
      chain.aside = undefined;
      if (chain.next !== undefined) original?.(chain.next.poll);
    }
    devicesAside--;
    update();
  };
}

function count(software: boolean, by: 1 | -1): void {
  if (software) softwareDevices += by;
  else hardwareDevices += by;
  update();
}

function update(): void {
  if (active() || devicesAside > 0) install();
  else uninstall();
}

function active(): boolean {
  return softwareDevices > 0 && hardwareDevices === 0;
}

function install(): void {
  const immediate = host.setImmediate;
  if (original !== undefined || immediate === undefined) return;
  const set = (poll: () => void, chain: Chain): unknown => {
    const now = performance.now();
    if (chain.aside !== undefined) {
      const handle = setTimeout(poll, Math.min(longestAside, Math.max(timer, patience * (now - chain.aside))));
      dontWaitFor(handle);
      return handle;
    }
    const since = now - submitted;
    if (!active() || eager > 0 || since < spinning) return immediate(poll);
    const pause = Math.min(longest, Math.max(shortest, patience * since));
    const alone = !othersTurn;
    othersTurn = false;
    if (pause < timer && alone && sleep(pause)) return immediate(poll);
    return setTimeout(poll, Math.max(timer, pause));
  };
  const policy: SetImmediate = (callback, ...args) => {
    if (!isNative(callback)) {
      othersTurn = true;
      return immediate(callback, ...args);
    }
    const chain = polling ?? { next: undefined, aside: undefined };
    let ran = false;
    const poll = () => {
      if (ran) return; // Before its time.
      ran = true;
      chain.next = undefined;
      polling = chain;
      const traced = tracingReactions > 0;
      if (traced) queueMicrotask(() => bringing = chain);
      try {
        callback(...args);
      } finally {
        polling = undefined;
        if (traced) queueMicrotask(() => bringing = undefined);
      }
    };
    const handle = set(poll, chain);
    chain.next = { poll, handle };
    return handle;
  };
  // util.promisify(setImmediate) finds its promise form in a property.
  Object.defineProperties(policy, Object.getOwnPropertyDescriptors(immediate));
  original = immediate;
  replacement = policy;
  host.setImmediate = policy;
}

/** Whether the program has set an immediate since Dawn polled last. */
let othersTurn = false;
/** What nobody wakes; null where a thread may not be stopped. */
let never: Int32Array | null | undefined;
let slept = 0;

/**
 * Stops the thread for some milliseconds, but once a turn of the event loop, however many instances of Dawn poll in it. False
 * where that cannot be done.
 */
function sleep(pause: number): boolean {
  if (performance.now() - slept < shortest / 2) return true;
  try {
    never ??= typeof SharedArrayBuffer === "undefined" ? null : new Int32Array(new SharedArrayBuffer(4));
    if (never === null) return false;
    Atomics.wait(never, 0, 0, pause);
  } catch {
    never = null;
    return false;
  }
  slept = performance.now();
  return true;
}

function uninstall(): void {
  // Someone else may have replaced it in the meantime: theirs stays, and ours only passes on what it gets.
  if (original !== undefined && host.setImmediate === replacement) {
    host.setImmediate = original;
    original = undefined;
    replacement = undefined;
  }
}

function isNative(callback: unknown): boolean {
  return typeof callback === "function" && Function.prototype.toString.call(callback).includes("[native code]");
}
