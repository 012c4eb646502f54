/** What public functions take. */
import type { Mutation } from "./mutation.ts";

export const signature: readonly Mutation[] = [
  {
    file: "signature/kinds.ts",
    find: `if (kind === undefined) return false;
        const value`,
    put: `if (kind === undefined) continue;
        const value`,
    tests: { "signature": "a signature takes what it declares" },
    why: "an option that is misspelt is passed over",
  },
  {
    file: "signature/kinds.ts",
    find: "return !isEmpty || !isInstance(x);",
    put: "return true;",
    tests: { "signature": "a signature takes what it declares" },
    why: "a Map or a promise is taken for options",
  },
  {
    file: "signature/takes.ts",
    find: "arguments.length > 1 || !(a === undefined",
    put: "!(a === undefined",
    tests: { "signature": "guarded methods keep" },
    why: "an argument too many is passed over",
  },
];
