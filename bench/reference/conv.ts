/** Convolution and max pooling in float64, image by image: x [height, width, channels]. */
import { type Doubles, product, transpose } from "./dense.ts";

export interface Images {
  readonly height: number;
  readonly width: number;
  readonly channels: number;
}

/** Odd kernels [side, side, in, out], stride 1, same padding: the products of the patches with the kernel. */
export function conv(x: Doubles, form: Images, kernel: Doubles, side: number, out: number): Doubles {
  return product(patches(x, form, side), kernel, form.height * form.width, side * side * form.channels, out);
}

/** Adds the kernel's gradient to `dk`, and gives that of x. */
export function convGradients(
  x: Doubles,
  form: Images,
  kernel: Doubles,
  side: number,
  dy: Doubles,
  dk: Doubles,
): Doubles {
  const pixels = form.height * form.width;
  const length = side * side * form.channels;
  const out = dy.length / pixels;
  const own = product(transpose(patches(x, form, side), pixels, length), dy, length, pixels, out);
  for (let i = 0; i < dk.length; i++) dk[i]! += own[i]!;
  return fromPatches(product(dy, transpose(kernel, length, out), pixels, out, length), form, side);
}

/** [pixels, side * side * channels]: what the kernel sees at each pixel, zeros outside the image. */
function patches(x: Doubles, form: Images, side: number): Doubles {
  const out = new Float64Array(form.height * form.width * side * side * form.channels);
  eachTap(form, side, (patch, pixel) => {
    for (let c = 0; c < form.channels; c++) out[patch + c] = x[pixel + c]!;
  });
  return out;
}

function fromPatches(p: Doubles, form: Images, side: number): Doubles {
  const out = new Float64Array(form.height * form.width * form.channels);
  eachTap(form, side, (patch, pixel) => {
    for (let c = 0; c < form.channels; c++) out[pixel + c]! += p[patch + c]!;
  });
  return out;
}

/** Calls `visit` with the place of each tap among the patches, and of the pixel that it falls on. */
function eachTap(
  { height, width, channels }: Images,
  side: number,
  visit: (patch: number, pixel: number) => void,
): void {
  const reach = (side - 1) / 2;
  let patch = 0;
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      for (let dr = -reach; dr <= reach; dr++) {
        for (let dc = -reach; dc <= reach; dc++, patch += channels) {
          const [r, c] = [row + dr, column + dc];
          if (r >= 0 && r < height && c >= 0 && c < width) visit(patch, (r * width + c) * channels);
        }
      }
    }
  }
}

/** The largest of each 2x2 window, and where it is; the first of equals. */
export function maxPool(x: Doubles, { height, width, channels }: Images): { y: Doubles; from: Int32Array } {
  const [rows, columns] = [height / 2, width / 2];
  const y = new Float64Array(rows * columns * channels).fill(-Infinity);
  const from = new Int32Array(y.length);
  for (let r = 0; r < height; r++) {
    for (let c = 0; c < width; c++) {
      for (let channel = 0; channel < channels; channel++) {
        const at = (r * width + c) * channels + channel;
        const to = ((r >> 1) * columns + (c >> 1)) * channels + channel;
        if (x[at]! > y[to]!) [y[to], from[to]] = [x[at]!, at];
      }
    }
  }
  return { y, from };
}

export function maxPoolGradient(dy: Doubles, from: Int32Array, length: number): Doubles {
  const dx = new Float64Array(length);
  for (let i = 0; i < dy.length; i++) dx[from[i]!]! += dy[i]!;
  return dx;
}
