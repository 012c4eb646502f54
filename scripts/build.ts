/** `npm run build`: dist/ gets the declarations from tsc, and the one module that they describe. */
import { fileURLToPath } from "node:url";
import { bundle } from "./bundle.ts";

await bundle(fileURLToPath(new URL("../dist/index.js", import.meta.url)));
