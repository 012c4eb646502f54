/**
 * The dtypes of results as types: what elementwise.ts, reduce.ts and the others give, told by tables that test/types.test.ts
 * compares with what comes out. They are looked up, where conditional types would do, as TypeScript then knows that a Tensor of
 * one dtype is a Tensor of several.
 */
import type { DType } from "../graph/dtype.ts";

/** What has a dtype: a Tensor. */
interface Typed {
  readonly dtype: DType;
}

interface Meetings {
  f32: { f32: "f32"; f16: "f32"; i32: "f32"; u32: "f32"; bool: "f32" };
  f16: { f32: "f32"; f16: "f16"; i32: "f32"; u32: "f32"; bool: "f16" };
  i32: { f32: "f32"; f16: "f32"; i32: "i32"; u32: "i32"; bool: "i32" };
  u32: { f32: "f32"; f16: "f32"; i32: "i32"; u32: "u32"; bool: "u32" };
  bool: { f32: "f32"; f16: "f16"; i32: "i32"; u32: "u32"; bool: "bool" };
}

interface MeetingsWithNumbers {
  f32: { bit: "f32"; natural: "f32"; negative: "f32"; fraction: "f32"; any: "f32" };
  f16: { bit: "f16"; natural: "f16" | "f32"; negative: "f16" | "f32"; fraction: "f16" | "f32"; any: "f16" | "f32" };
  i32: { bit: "i32"; natural: "i32"; negative: "i32"; fraction: "f32"; any: "i32" | "f32" };
  u32: { bit: "u32"; natural: "u32"; negative: "f32"; fraction: "f32"; any: "u32" | "f32" };
  bool: { bit: "bool"; natural: "i32"; negative: "i32"; fraction: "f32"; any: "bool" | "i32" | "f32" };
}

/** Which dtypes hold a number: known of those that are written down, if they are short. */
type NumberKind<N extends number> = number extends N ? "any" : KindOfLiteral<N>;

type KindOfLiteral<N extends number> = N extends 0 | 1 ? "bit"
  : `${N}` extends `${string}e${string}` ? "any"
  : `${N}` extends `${bigint}`
    ? `${N}` extends `-${infer Digits}` ? IfShort<Digits, "negative"> : IfShort<`${N}`, "natural">
  : `${N}` extends `${string}.${string}` ? "fraction"
  : "any";

/** Nine digits are below 2^31. */
type IfShort<Digits extends string, Kind> = Digits extends
  `${infer _1}${infer _2}${infer _3}${infer _4}${infer _5}${infer _6}${infer _7}${infer _8}${infer _9}${infer _10}${string}`
  ? "any"
  : Kind;

/** The dtype in which two meet: `promote`. */
export type Promote<A extends DType, B extends DType> = Meetings[A][B];

/** The dtype in which a tensor of D and an operand meet: a Tensor, a number or a boolean. */
export type Meet<D extends DType, O> = O extends Typed ? Promote<D, O["dtype"]>
  : O extends number ? MeetingsWithNumbers[D][NumberKind<O>]
  : D;

/** The dtype in which two operands meet of which either may be a number or a boolean. */
export type MeetOperands<A, B> = A extends Typed ? Meet<A["dtype"], B>
  : B extends Typed ? Meet<B["dtype"], A>
  : A extends boolean ? B extends boolean ? "bool" : "f32"
  : "f32";

/** The dtype in which all of a list of tensors meet. */
export type MeetAll<T extends readonly Typed[]> = T extends
  readonly [infer First extends Typed, ...infer Rest extends readonly Typed[]] ? MeetNext<First["dtype"], Rest>
  : Meetings[T[number]["dtype"]][T[number]["dtype"]];

type MeetNext<D extends DType, T extends readonly Typed[]> = T extends
  readonly [infer First extends Typed, ...infer Rest extends readonly Typed[]]
  ? MeetNext<Meetings[D][First["dtype"]], Rest>
  : T extends readonly [] ? D
  : D | Meetings[D][MeetAll<T>];

interface Computations {
  f32: "f32";
  f16: "f32";
  i32: "i32";
  u32: "u32";
  bool: "i32";
}

/** The dtype in which D is computed with, and which the result has: f32 for f16, i32 for bool. */
export type Computed<D extends DType> = Computations[D];

/** The dtype of a product of matrices, and of whatever else is summed up of products. */
export type Product<A extends DType, B extends DType> = Computed<Promote<A, B>>;

/** The dtype of a sum, difference or product of a tensor of D and an operand: that in which they meet, computed with. */
export type Sum<D extends DType, O> = O extends Typed ? Computed<Promote<D, O["dtype"]>>
  : O extends number ? Computed<MeetingsWithNumbers[D][NumberKind<O>]>
  : Computed<D>;

/** The dtype of the larger or smaller of a tensor of D and an operand: also beside a number that D does not hold it may be D. */
export type Extreme<D extends DType, O> = O extends number ? Computed<D> | Sum<D, O> : Sum<D, O>;

/** The dtype of a power of a tensor of D: small whole exponents multiply, others make floats. */
export type Power<D extends DType, O> = O extends 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 ? Computed<D>
  : O extends number ? NumberKind<O> extends "any" ? Computed<D> | "f32" : "f32"
  : "f32";

interface Magnitudes {
  f32: "f32";
  f16: "f32";
  i32: "i32";
  u32: "u32";
  bool: "bool";
}

/** The dtype of magnitudes and of rounded numbers: integers and bools stay what they are. */
export type Magnitude<D extends DType> = Magnitudes[D];

interface Integers {
  f32: never;
  f16: never;
  i32: "i32";
  u32: "u32";
  bool: "i32";
}

/** The dtype of what is computed of the bits of a tensor of D, and of an operand: an integer, as there is none of floats. */
export type Bits<D extends DType, O = boolean> = O extends Typed ? Integers[Promote<D, O["dtype"]>]
  : O extends number ? Integers[MeetingsWithNumbers[D][NumberKind<O>]]
  : Integers[D];

/** The dtype of `arange` where none is asked for. */
export type Counted<End extends number, Start extends number, Step extends number> = [NumberKind<Start>] extends
  ["fraction"] ? "f32"
  : [NumberKind<Step>] extends ["fraction"] ? "f32"
  : [NumberKind<End | Start | Step>] extends ["bit" | "natural" | "negative"] ? "i32"
  : "i32" | "u32" | "f32";

interface Items {
  f32: number;
  f16: number;
  i32: number;
  u32: number;
  bool: boolean;
}

/** An element as a value of JavaScript: a boolean for a bool, else a number. */
export type Item<D extends DType> = Items[D];
