/** Where in the user's program a call came from. */

/** Frames that are kept of a stack: the library's own, above the user's, may be many. */
const frames = 64;

/** Runs `body` while errors remember enough of the stack. */
export function withDeepStacks<T>(body: () => T): T {
  const limited = Error as { stackTraceLimit?: number };
  const before = limited.stackTraceLimit;
  limited.stackTraceLimit = frames;
  try {
    return body();
  } finally {
    if (before === undefined) delete limited.stackTraceLimit;
    else limited.stackTraceLimit = before;
  }
}

/** The folder of the library's own files: this one is in a folder there, or is part of a bundle in one. */
const library = new URL("..", import.meta.url).href;

/**
 * The innermost frame of an error's stack that is not in the library, as `path:line`; undefined where there is none. Stacks
 * are spelled only when they are asked for, so that an error that is never asked costs little.
 */
export function callerOf(error: Error): string | undefined {
  const own = plainPath(library);
  for (const frame of error.stack?.split("\n") ?? []) {
    const place = /(?:^|[\s(@])((?:[a-z]+:\/\/|\/|[A-Za-z]:[\\/])[^()]*):(\d+):\d+\)?$/.exec(frame.trim());
    if (place === null) continue;
    const path = plainPath(place[1]!);
    if (!path.startsWith(own)) return `${path}:${place[2]}`;
  }
  return undefined;
}

function plainPath(url: string): string {
  return url.startsWith("file://") ? decodeURIComponent(url.slice("file://".length)) : url;
}
