/**
 * Dawn's Node binding polls with `setImmediate` as long as a promise of it is pending, and so burns a core while
 * the GPU works; where the GPU is the CPU, that is a core less for the kernels. It looks the function up on
 * `globalThis` at each poll, so that another one can stand in: it spins for a moment after a submission, which is
 * what short work needs, then sleeps a little before each poll, and less and less often polls the longer the work takes.
 * Sleep of less than a millisecond, the shortest timer, stops the thread: it is short against the work that is waited for,
 * and there is none where the program has set immediates of its own, which would wait, too.
 * Only Dawn's own callbacks, which are native functions, are slowed. The policy is in place while software devices and no others
 * are open: a real GPU is waited for without delay.
 */

type SetImmediate = (callback: (...args: unknown[]) => void, ...args: unknown[]) => unknown;

/** Milliseconds after a submission in which polling is immediate. */
const spinning = 0.3;
/** The time between two polls is this part of the time since the submission, between these two lengths in milliseconds. */
const patience = 1 / 16;
const shortest = 0.05;
const longest = 4;
/** Milliseconds of the shortest timer. */
const timer = 1;

const host = globalThis as unknown as { setImmediate?: SetImmediate };

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

function count(software: boolean, by: 1 | -1): void {
  if (software) softwareDevices += by;
  else hardwareDevices += by;
  if (active()) install();
  else uninstall();
}

function active(): boolean {
  return softwareDevices > 0 && hardwareDevices === 0;
}

function install(): void {
  const immediate = host.setImmediate;
  if (original !== undefined || immediate === undefined) return;
  const policy: SetImmediate = (callback, ...args) => {
    const since = performance.now() - submitted;
    const ours = isNative(callback);
    if (!ours) othersTurn = true;
    if (!active() || eager > 0 || since < spinning || !ours) return immediate(callback, ...args);
    const pause = Math.min(longest, Math.max(shortest, patience * since));
    const alone = !othersTurn;
    othersTurn = false;
    if (pause < timer && alone && sleep(pause)) return immediate(callback, ...args);
    return setTimeout(callback, Math.max(timer, pause), ...args);
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
