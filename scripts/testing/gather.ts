/**
 * What stands for `node:test` where one process runs several test files: tests are gathered as a file is imported, and run before
 * the next one is. Tests have what all runtimes can give them: a name, a body, and a context with `skip` and `after`.
 */

/** The part of `node:test`'s context that tests use. */
export interface Context {
  skip(reason?: string): void;
  after(body: () => unknown): void;
}

export interface GatheredTest {
  readonly name: string;
  readonly body: (context: Context) => unknown;
}

let gathered: GatheredTest[] = [];
let prefix = "";

/** Notes a test. Its promise is that of `node:test`, which nothing waits for. */
export function test(name: string, body: GatheredTest["body"]): Promise<void> {
  gathered.push({ name: prefix + name, body });
  return Promise.resolve();
}

export function describe(name: string, body: () => void): void {
  const before = prefix;
  prefix = `${before}${name}: `;
  try {
    body();
  } finally {
    prefix = before;
  }
}

/** Imports a module and gives the tests in it; one that fails where it cannot be imported. A runtime may have none of them. */
export async function testsOf(url: string): Promise<readonly GatheredTest[]> {
  gathered = [];
  try {
    await import(url);
  } catch (error) {
    gathered.push({
      name: "the file can be loaded",
      body: () => {
        throw error;
      },
    });
  }
  return gathered;
}
