/** Members that other libraries have and that are not here: reading one says what does it here. */
import { ArgumentError } from "../errors.ts";

/** What does the same here, by the name that it has elsewhere. */
export type ForeignWords = Readonly<Record<string, string>>;

/**
 * Lets objects of a class say what is meant by a member that they do not have. What they have is found as before: the words stand
 * at the end of the chain of prototypes, where reading gets only what is nowhere else. `index` is what is said of `x[0]`.
 * Reading throws ArgumentError for these words and gives undefined for all others, as programs may ask what there is.
 */
export function foreignWords(owner: string, prototype: object, words: ForeignWords, index?: string): void {
  const known = new Map(Object.entries(words));
  let last = prototype;
  for (let next = above(last); next !== null && above(next) !== null; next = above(next)) last = next;
  const end = new Proxy(above(last)!, {
    get(target, key, receiver) {
      const need = typeof key !== "string"
        ? undefined
        : known.get(key) ?? (index !== undefined && /^\d+$/.test(key) ? index : undefined);
      if (need === undefined) return Reflect.get(target, key, receiver) as unknown;
      throw foreign(owner, key as string, need);
    },
  });
  Object.setPrototypeOf(last, end);
}

function above(prototype: object): object | null {
  return Object.getPrototypeOf(prototype) as object | null;
}

/** The same for one plain object, which keeps its prototype: properties that are not enumerated. */
export function foreignProperties(owner: string, object: object, words: ForeignWords): void {
  for (const [word, need] of Object.entries(words)) {
    Object.defineProperty(object, word, {
      get: () => {
        throw foreign(owner, word, need);
      },
    });
  }
}

function foreign(owner: string, word: string, need: string): ArgumentError {
  return new ArgumentError(owner, { got: /^\d+$/.test(word) ? `[${word}]` : `.${word}`, need });
}
