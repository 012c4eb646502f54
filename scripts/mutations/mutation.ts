/** A small change of the sources that alters what they mean, and the tests that hold the meaning. */
export interface Mutation {
  /** In src. */
  readonly file: string;
  /** What is changed: stands in the file exactly once. */
  readonly find: string;
  readonly put: string;
  /**
   * Each of these must fail: test files (without `.test.ts`), each with a part of the names of the tests to run, as it stands in
   * the file. "" runs all of them.
   */
  readonly tests: Readonly<Record<string, string>>;
  /** What goes wrong with the change. */
  readonly why: string;
  /** Where only a GPU shows it. */
  readonly gpu?: true;
}
