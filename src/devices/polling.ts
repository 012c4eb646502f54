/**
 * Dawn's Node binding polls with `setImmediate` as long as a promise of it is pending, and so burns a core while
 * the GPU works; where the GPU is the CPU, that is a core less for the kernels. It looks the function up on
 * `globalThis` at each poll, so that another one can stand in: it spins for a moment after a submission, which is
 * what short work needs, and then polls once a millisecond, and less often the longer the work takes. Only Dawn's
 * own callbacks, which are native functions, are slowed. The policy is in place while software devices and no others
 * are open: a real GPU is waited for without delay.
 */

type SetImmediate = (callback: (...args: unknown[]) => void, ...args: unknown[]) => unknown;

/** Milliseconds after a submission in which polling is immediate. */
const spinning = 0.3;
/** The time between two polls is this part of the time since the submission, between these two lengths in milliseconds. */
const patience = 1 / 32;
const shortest = 1;
const longest = 5;

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
    if (!active() || eager > 0 || since < spinning || !isNative(callback)) return immediate(callback, ...args);
    return setTimeout(callback, Math.min(longest, Math.max(shortest, patience * since)), ...args);
  };
  // util.promisify(setImmediate) finds its promise form in a property.
  Object.defineProperties(policy, Object.getOwnPropertyDescriptors(immediate));
  original = immediate;
  replacement = policy;
  host.setImmediate = policy;
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
