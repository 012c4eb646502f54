/** Values in the words of an error. */

const most = 60;

/** A value, short: numbers and strings as they are written, of objects their class, or the names of their fields. */
export function show(x: unknown): string {
  if (typeof x === "string") return short(JSON.stringify(x));
  if (typeof x === "bigint") return `${x}n`;
  if (typeof x === "function") return x.name === "" ? "a function" : `the function ${x.name}`;
  if (typeof x !== "object" || x === null) return String(x);
  if (x instanceof Promise) return "a Promise";
  if (Array.isArray(x)) {
    return short(
      `[${x.slice(0, 8).map((one) => Array.isArray(one) ? "[…]" : show(one)).join(", ")}${x.length > 8 ? ", …" : ""}]`,
    );
  }
  const name = (Object.getPrototypeOf(x) as { constructor?: { name?: unknown } } | null)?.constructor?.name;
  if (typeof name === "string" && name !== "Object" && name !== "") {
    return `${/^[AEIOU]/.test(name) ? "an" : "a"} ${name}`;
  }
  const names = Object.keys(x);
  return names.length === 0 ? "{}" : short(`{ ${names.join(", ")} }`);
}

function short(text: string): string {
  return text.length <= most ? text : `${text.slice(0, most)}…`;
}
