/** The namespaces of this folder. */
export * as nn from "./nn.ts";
export * as optim from "./optim/index.ts";
export * as data from "./data/data.ts";
export * as io from "./io/io.ts";
