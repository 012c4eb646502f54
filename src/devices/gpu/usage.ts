/** WebGPU's usage and mode flags by value: their global objects do not exist in Node. */
export const usage = {
  mapRead: 0x0001,
  copySource: 0x0004,
  copyDestination: 0x0008,
  uniform: 0x0040,
  storage: 0x0080,
  queryResolve: 0x0200,
} as const;

/** GPUMapMode.READ. */
export const mapForReading = 0x0001;

/** GPUShaderStage.COMPUTE. */
export const computeStage = 0x4;
