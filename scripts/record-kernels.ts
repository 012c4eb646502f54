/** `npm run record:kernels`: writes the kernels that test/kernel-replay.test.ts holds the compiler to. */
import { record } from "../test/kernel-replay.ts";

await record();
