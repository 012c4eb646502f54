/** JSON of unknown origin: what readers would understand differently, or run out of memory or stack on, is refused. */

/**
 * Parses JSON in which no record has a name twice (also if spelled differently, as "a" and "\u0061") and nothing lies in
 * more than `depth` lists and records. Throws SyntaxError for all else. Takes time and memory in proportion to the text.
 */
export function parseStrict(text: string, depth: number): unknown {
  checkNames(text, depth);
  return JSON.parse(text);
}

const quote = 0x22;
const backslash = 0x5c;
const openList = 0x5b;
const closeList = 0x5d;
const openRecord = 0x7b;
const closeRecord = 0x7d;

/** Sees names and brackets only; whether the text is JSON is for the parser to say, which needs no stack for what is left. */
function checkNames(text: string, depth: number): void {
  /** The names in each record that is open; undefined for a list. */
  const open: (Set<string> | undefined)[] = [];
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === openList || code === openRecord) {
      if (open.length === depth) throw new SyntaxError(`more than ${depth} lists and records in each other`);
      open.push(code === openRecord ? new Set() : undefined);
    } else if (code === closeList || code === closeRecord) {
      open.pop();
    } else if (code === quote) {
      const end = endOfString(text, i);
      const names = open.at(-1);
      if (names !== undefined && isName(text, end)) addName(names, text.slice(i, end));
      i = end - 1;
    }
  }
}

function addName(names: Set<string>, spelled: string): void {
  const name = spelled.includes("\\") ? JSON.parse(spelled) as string : spelled.slice(1, -1);
  if (names.has(name)) throw new SyntaxError(`the name ${JSON.stringify(name).slice(0, 100)} twice`);
  names.add(name);
}

/** After the quote that ends the string that begins at `start`. */
function endOfString(text: string, start: number): number {
  for (let end = start;;) {
    end = text.indexOf('"', end + 1);
    if (end < 0) return text.length;
    let escapes = 0;
    while (text.charCodeAt(end - 1 - escapes) === backslash) escapes++;
    if (escapes % 2 === 0) return end + 1;
  }
}

/** Whether a colon follows. */
function isName(text: string, end: number): boolean {
  while (text[end] === " " || text[end] === "\n" || text[end] === "\r" || text[end] === "\t") end++;
  return text[end] === ":";
}
