/** JSON of unknown origin: what readers would understand differently, or run out of memory or stack on, is refused. */

/**
 * Parses JSON in which no record has a name twice (also if spelled differently, as "a" and "\\u0061") and nothing lies in
 * more than `depth` lists and records. Throws SyntaxError for all else. Takes time and memory in proportion to the text.
 */
export function parseStrict(text: string, depth: number): unknown {
  checkNames(text, depth);
  return JSON.parse(text);
}

/** Sees names and brackets only; whether the text is JSON is for the parser to say, which needs no stack for what is left. */
function checkNames(text: string, depth: number): void {
  /** The names in each record that is open; undefined for a list. */
  const open: (Set<string> | undefined)[] = [];
  for (let i = 0; i < text.length; i++) {
    switch (text[i]) {
      case "{":
      case "[":
        if (open.length === depth) throw new SyntaxError(`more than ${depth} lists and records in each other`);
        open.push(text[i] === "{" ? new Set() : undefined);
        break;
      case "}":
      case "]":
        open.pop();
        break;
      case '"': {
        const end = endOfString(text, i);
        const names = open.at(-1);
        if (names !== undefined && isName(text, end)) {
          const name = JSON.parse(text.slice(i, end)) as string;
          if (names.has(name)) throw new SyntaxError(`the name ${JSON.stringify(name).slice(0, 100)} twice`);
          names.add(name);
        }
        i = end - 1;
      }
    }
  }
}

/** After the quote that ends the string that begins at `start`. */
function endOfString(text: string, start: number): number {
  for (let quote = start;;) {
    quote = text.indexOf('"', quote + 1);
    if (quote < 0) return text.length;
    let escapes = 0;
    while (text[quote - 1 - escapes] === "\\") escapes++;
    if (escapes % 2 === 0) return quote + 1;
  }
}

/** Whether a colon follows. */
function isName(text: string, end: number): boolean {
  while (text[end] === " " || text[end] === "\n" || text[end] === "\r" || text[end] === "\t") end++;
  return text[end] === ":";
}
