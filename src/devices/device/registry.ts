import type { Device } from "./device.ts";

/** What distinguishes a device from all others of the process. */
export interface Identity {
  readonly id: number;
  readonly name: string;
}

let nextId = 1;
const byId = new Map<number, Device>();
const namesInUse = new Map<string, number>();
const byKey = new Map<string, Promise<Device>>();

/** The open device with this id; undefined once it is closed. */
export function deviceById(id: number): Device | undefined {
  return byId.get(id);
}

/** All open devices, in the order of their opening. */
export function openDevices(): readonly Device[] {
  return [...byId.values()];
}

/** Reserves an id and a name `kind:k` with the lowest k that no open device has. */
export function claimIdentity(kind: Device["kind"]): Identity {
  let index = 0;
  while (namesInUse.has(`${kind}:${index}`)) index++;
  const name = `${kind}:${index}`;
  const id = nextId++;
  namesInUse.set(name, id);
  return { id, name };
}

/** Makes an open device known. */
export function register(device: Device): void {
  byId.set(device.id, device);
}

/** Forgets a device that was closed or could not be opened. */
export function forget(identity: Identity): void {
  byId.delete(identity.id);
  if (namesInUse.get(identity.name) === identity.id) namesInUse.delete(identity.name);
}

/**
 * The device that `open` made for this key, as long as it is open; else opens it. Calls for one key wait for each
 * other.
 */
export async function openOnce(key: string, open: () => Promise<Device>): Promise<Device> {
  for (let known = byKey.get(key); known !== undefined; known = byKey.get(key)) {
    const device = await known.catch(() => undefined);
    if (device !== undefined && !device.isLost) return device;
    if (byKey.get(key) === known) byKey.delete(key);
  }
  const opening = open();
  byKey.set(key, opening);
  return opening;
}
