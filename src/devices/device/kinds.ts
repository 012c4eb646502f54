/** Devices, for what functions take. */
import { type Kind, string } from "../../signature/kinds.ts";
import { rejects } from "../../signature/takes.ts";
import type { Device } from "./device.ts";

/** By what is asked of one, as there are several classes of them, and wrapped ones. */
export const device: Kind<Device> = {
  need: "a device, one of await devices()",
  accepts: (x) =>
    typeof x === "object" && x !== null && typeof (x as Device).id === "number" &&
    typeof (x as Device).alloc === "function",
};

/** What the methods of devices take that are for users; the others are for the engine, which calls them all the time. */
export const ofUsers = { sync: rejects({}), stats: {}, abandon: { message: string }, close: {} };
