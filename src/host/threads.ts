/** Threads of Node, Deno and browsers. */
import { builtin } from "./host.ts";

/** A thread that runs a text, and need not end before the program does. */
export interface Thread {
  post(message: unknown): void;
}

interface NodeWorker {
  postMessage(message: unknown): void;
  on(event: "error", listener: (error: unknown) => void): void;
  unref(): void;
}

interface WorkerThreads {
  readonly Worker: new (code: string, options: object) => NodeWorker;
}

/** How many threads this process can run at once. */
export function processors(): number {
  const navigator = (globalThis as { readonly navigator?: { readonly hardwareConcurrency?: number } }).navigator;
  return navigator?.hardwareConcurrency ??
    builtin<{ availableParallelism?(): number }>("node:os")?.availableParallelism?.() ?? 1;
}

/**
 * Starts a thread that runs `text`, JavaScript that is no module. `failed` is called when it ends by an error. Undefined where none
 * can be started, as where a page's policy forbids it.
 */
export function startThread(text: string, name: string, failed: (reason: string) => void): Thread | undefined {
  try {
    const threads = builtin<WorkerThreads>("node:worker_threads");
    if (threads !== undefined) {
      // Nothing of the program's own start: it would be loaded once more in each thread.
      const worker = new threads.Worker(text, { eval: true, name, execArgv: [], env: {} });
      worker.on("error", (error) => failed(String(error)));
      worker.unref();
      return { post: posting(worker, failed) };
    }
    const url = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
    const worker = new Worker(url, { name });
    worker.onerror = ({ message }) => failed(message);
    return { post: posting(worker, failed) };
  } catch {
    return undefined;
  }
}

/** What a thread cannot be sent is no error of who sends it: the thread is of no use then. */
function posting(
  worker: { postMessage(message: unknown): void },
  failed: (reason: string) => void,
): (message: unknown) => void {
  return (message) => {
    try {
      worker.postMessage(message);
    } catch (error) {
      failed(String(error));
    }
  };
}
