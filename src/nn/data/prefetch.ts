/** Batches made while the step before them runs. */

/**
 * The batches of a source, in order. Of an asynchronous source the next one is already being made while the caller works
 * on the present one; at most one ahead, and `wait` is what waits for it, and for its end. A source that fails does so where
 * its batch would have come, and a caller who stops early ends it.
 */
export async function* prefetched<T>(
  source: Iterable<T> | AsyncIterable<T>,
  wait: <R>(coming: Promise<R>) => Promise<R> = (coming) => coming,
): AsyncGenerator<T, void, undefined> {
  if (!(Symbol.asyncIterator in source)) {
    yield* source;
    return;
  }
  const iterator = source[Symbol.asyncIterator]();
  let ended = false;
  const next = () => {
    const result = Promise.resolve(iterator.next());
    // It is waited for later. That a wait for it fails is no end of the source.
    result.then(({ done }) => ended = done === true).catch(() => ended = true);
    return result;
  };
  let coming = next();
  try {
    for (;;) {
      const { done, value } = await wait(coming);
      if (done === true) return;
      coming = next();
      yield value;
    }
  } finally {
    // The source may wait for what waits for the caller.
    if (!ended) await wait(coming).catch(() => {});
    if (!ended) await wait(Promise.resolve(iterator.return?.()));
  }
}
