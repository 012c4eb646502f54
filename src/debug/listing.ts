/** Lines above and below a marked one that a shortened listing shows. */
const around = 12;
/** Longer sources are shortened to what surrounds the marked lines. */
const wholeUpTo = 300;

/**
 * Source text with line numbers; the lines in `marked` (counted from 1) get a `>`. A long source is cut down to the
 * surroundings of its marked lines, with the number of lines left out.
 */
export function numberedSource(source: string, marked: readonly number[] = []): string {
  const lines = source.split("\n");
  const width = String(lines.length).length;
  const whole = lines.length <= wholeUpTo || marked.length === 0;
  const shown: string[] = [];
  let skipped = 0;
  lines.forEach((line, index) => {
    const number = index + 1;
    if (!whole && !marked.some((mark) => Math.abs(mark - number) <= around)) {
      skipped++;
      return;
    }
    if (skipped > 0) shown.push(`  ${" ".repeat(width)} … ${skipped} lines`);
    skipped = 0;
    shown.push(`${marked.includes(number) ? ">" : " "} ${String(number).padStart(width)} | ${line}`);
  });
  if (skipped > 0) shown.push(`  ${" ".repeat(width)} … ${skipped} lines`);
  return shown.join("\n");
}
