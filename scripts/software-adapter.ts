/**
 * A WebGPU adapter for a machine without a GPU: Mesa's lavapipe, unpacked from the system's own package mirror into the
 * project's cache folder. The system is left alone, and nobody has to be root. For Debian and Ubuntu.
 *
 *   node --import tsx scripts/software-adapter.ts                prints the environment that makes it visible
 *   node --import tsx scripts/software-adapter.ts COMMAND …      runs a command in that environment
 */
import { spawn, spawnSync } from "node:child_process";
import { copyFile, mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";

export type Environment = Record<string, string>;

const project = resolve(fileURLToPath(new URL("..", import.meta.url)));
const cache = join(project, ".cache");
const home = join(cache, "software-adapter");
const unpacked = join(home, "root");

const wanted = ["mesa-vulkan-drivers", "libvulkan1"];
/** The C library must be the running system's: a program has only one, and it is there already. */
const systemOwned = /^(libc6|libc-bin|libcrypt1|libc-l10n|locales)_/;

/** What to do by hand where this does not work. */
export const byHand = "as root: apt-get install mesa-vulkan-drivers libvulkan1 " +
  "(on Debian 12 with -t bookworm-backports), or any other Vulkan driver";

/** Variables that keep compiled kernels between runs, and that spare Mesa a complaint. */
export async function commonEnvironment(): Promise<Environment> {
  const runtimeFolder = process.env["XDG_RUNTIME_DIR"] ?? join(cache, "runtime");
  const shaders = process.env["MESA_SHADER_CACHE_DIR"] ?? join(cache, "mesa");
  await mkdir(runtimeFolder, { recursive: true, mode: 0o700 });
  await mkdir(shaders, { recursive: true });
  return { XDG_RUNTIME_DIR: runtimeFolder, MESA_SHADER_CACHE_DIR: shaders };
}

/**
 * The name of the adapter that WebGPU finds in this environment, tried out in a process of its own; undefined if
 * none.
 */
export function findAdapter(environment: Environment): string | undefined {
  const program = 'import { create } from "webgpu";' +
    "const gpu = create([]);" +
    "const adapter = await gpu.requestAdapter();" +
    "const device = await adapter.requestDevice();" +
    "console.log(`adapter: ${adapter.info.description || adapter.info.device || adapter.info.vendor}`);" +
    "device.destroy();";
  const { stdout } = spawnSync(process.execPath, ["--input-type=module", "--eval", program], {
    cwd: project,
    env: { ...process.env, ...environment },
    encoding: "utf8",
    timeout: 60_000,
  });
  return /^adapter: (.*)$/m.exec(stdout ?? "")?.[1];
}

/**
 * The environment that makes lavapipe visible; downloads it when it is not there yet. Rejects with the reason when
 * it cannot.
 */
export async function softwareAdapter(): Promise<Environment> {
  if (!existsSync(unpacked)) await fetchMesa();
  const libraries = (await foldersBelow(unpacked, 5)).filter((folder) => /\/lib\/[^/]+-linux-gnu[^/]*$/.test(folder));
  const manifests = join(unpacked, "usr/share/vulkan/icd.d");
  const manifest = (await readdir(manifests)).find((name) => name.startsWith("lvp_icd"));
  if (manifest === undefined) throw new Error(`no lavapipe among the drivers in ${manifests}`);
  const driver = join(home, "lvp_icd.json");
  await pointManifest(join(manifests, manifest), driver, libraries);
  const before = process.env["LD_LIBRARY_PATH"];
  return {
    ...await commonEnvironment(),
    LD_LIBRARY_PATH: [...libraries, ...(before === undefined || before === "" ? [] : [before])].join(":"),
    VK_ICD_FILENAMES: driver,
    VK_DRIVER_FILES: driver,
  };
}

/** Downloads the packages and all that they need and the system lacks, and unpacks them. */
async function fetchMesa(): Promise<void> {
  if (process.platform !== "linux" || !existsSync("/usr/bin/apt-get") || !existsSync("/usr/bin/dpkg")) {
    throw new Error("only Debian and Ubuntu have it where it can be fetched from");
  }
  const work = join(home, `fetch.${process.pid}`);
  try {
    const apt = await aptOf(work);
    apt.tryUpdate();
    const release = await backports(apt, work);
    apt.run(["install", "--yes", "--download-only", "--no-install-recommends", ...release, ...wanted]);
    const archives = join(work, "cache/archives");
    const packages = (await readdir(archives)).filter((name) => name.endsWith(".deb") && !systemOwned.test(name));
    if (packages.length === 0) {
      throw new Error(`${wanted.join(" and ")} are installed and up to date, and still no adapter works`);
    }
    const target = join(work, "root");
    for (const name of packages) run("/usr/bin/dpkg", ["-x", join(archives, name), target]);
    // Whoever is first wins when two runs prepare it at once.
    if (!existsSync(unpacked)) await rename(target, unpacked);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

interface Apt {
  run(args: readonly string[]): string;
  /** A source that fails is no matter as long as the packages are found. */
  tryUpdate(): void;
}

/** apt-get with lists, cache and sources of its own; what is installed and how to reach mirrors is the system's. */
async function aptOf(work: string): Promise<Apt> {
  const parts = join(work, "sources");
  for (const folder of [parts, join(work, "state/lists/partial"), join(work, "cache/archives/partial")]) {
    await mkdir(folder, { recursive: true });
  }
  const systemParts = "/etc/apt/sources.list.d";
  for (const name of existsSync(systemParts) ? await readdir(systemParts) : []) {
    if (/\.(list|sources)$/.test(name)) await copyFile(join(systemParts, name), join(parts, name));
  }
  const options = [
    `Dir::State=${join(work, "state")}`,
    "Dir::State::status=/var/lib/dpkg/status",
    `Dir::Cache=${join(work, "cache")}`,
    `Dir::Etc::sourceparts=${parts}`,
    "Debug::NoLocking=1",
    "Acquire::Languages=none",
    "Acquire::Retries=3",
    // The cache folder may be where apt's own user may not go.
    ...(process.getuid?.() === 0 ? ["APT::Sandbox::User=root"] : []),
  ].flatMap((option) => ["-o", option]);
  return {
    run: (args) => run("/usr/bin/apt-get", ["--quiet=2", ...options, ...args]),
    tryUpdate: () => {
      spawnSync("/usr/bin/apt-get", ["--quiet=2", ...options, "update"], { stdio: "ignore" });
    },
  };
}

/** Debian 12's own Mesa is too old for WebGPU; adds its backports, from the mirror that the system uses. */
async function backports(apt: Apt, work: string): Promise<string[]> {
  const system = await readFile("/etc/os-release", "utf8");
  if (!/^ID=debian$/m.test(system) || !/^VERSION_CODENAME=bookworm$/m.test(system)) return [];
  const targets = apt.run(["indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"]);
  const mirror = /^(\S+) bookworm$/m.exec(targets)?.[1];
  if (mirror === undefined) throw new Error("no mirror of Debian 12 among the system's package sources");
  if (!/ bookworm-backports$/m.test(targets)) {
    await writeFile(join(work, "sources/backports.list"), `deb ${mirror} bookworm-backports main\n`);
    apt.tryUpdate();
  }
  return ["--target-release", "bookworm-backports"];
}

/** Copies a driver's manifest with the place where the driver is now. */
async function pointManifest(from: string, to: string, libraries: readonly string[]): Promise<void> {
  const manifest = JSON.parse(await readFile(from, "utf8")) as { ICD: { library_path: string } };
  const file = manifest.ICD.library_path.replace(/^.*\//, "");
  const folder = libraries.find((library) => existsSync(join(library, file)));
  if (folder === undefined) throw new Error(`${from} names ${file}, which is not in ${libraries.join(" or ")}`);
  manifest.ICD.library_path = join(folder, file);
  await writeFile(to, JSON.stringify(manifest, null, 2));
}

async function foldersBelow(folder: string, depth: number): Promise<string[]> {
  if (depth === 0) return [];
  const entries = await readdir(folder, { withFileTypes: true });
  const folders = entries.filter((entry) => entry.isDirectory()).map((entry) => join(folder, entry.name));
  const below = await Promise.all(folders.map((inner) => foldersBelow(inner, depth - 1)));
  return [...folders, ...below.flat()];
}

function run(command: string, args: readonly string[]): string {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    encoding: "utf8",
    env: { ...process.env, LC_ALL: "C", DEBIAN_FRONTEND: "noninteractive" },
    maxBuffer: 2 ** 28,
  });
  if (status !== 0) throw new Error(`${command} ${args.at(-1)}: ${error?.message ?? (stderr.trim() || stdout.trim())}`);
  return stdout;
}

async function main(command: readonly string[]): Promise<void> {
  const environment = await softwareAdapter();
  const [program, ...args] = command;
  if (program === undefined) {
    for (const [name, value] of Object.entries(environment)) console.log(`export ${name}=${JSON.stringify(value)}`);
    return;
  }
  const child = spawn(program, args, { stdio: "inherit", env: { ...process.env, ...environment } });
  process.exitCode = await new Promise<number>((resolve, reject) => {
    child.on("error", reject);
    child.on("exit", (code) => resolve(code ?? 1));
  });
}

if (process.argv[1] !== undefined && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  main(process.argv.slice(2)).catch((error: unknown) => {
    console.error(`software adapter: ${error instanceof Error ? error.message : String(error)}\nneed, ${byHand}`);
    process.exitCode = 1;
  });
}
