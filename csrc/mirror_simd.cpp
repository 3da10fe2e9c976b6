// SPDX-License-Identifier: Apache-2.0
// Dense mirrors of separate rows; compiled once per instruction set.
#include <utility>

#include "dense_simd.h"
#include "mirror_call.h"

namespace symfast {
namespace SYMFAST_ISA {
namespace {

// The even (or odd) lanes of a and b, in order.
template <typename A, int odd, int... lane>
SF_INLINE Vec<A> every_other(Vec<A> a, Vec<A> b, std::integer_sequence<int, lane...>) {
  return shuffle<A, (2 * lane + odd)...>(a, b);
}

// K vectors of interleaved numbers, x[K * i + q], become K vectors x[.][q]. K is a power of two.
template <int K, typename A>
SF_INLINE void deinterleave(Vec<A>* v) {
  if constexpr (K > 1) {
    using Lanes = std::make_integer_sequence<int, kLanes<A>>;
    Vec<A> even[K / 2], odd[K / 2];
    for (int i = 0; i < K / 2; ++i) {
      even[i] = every_other<A, 0>(v[2 * i], v[2 * i + 1], Lanes());
      odd[i] = every_other<A, 1>(v[2 * i], v[2 * i + 1], Lanes());
    }
    deinterleave<K / 2, A>(even);
    deinterleave<K / 2, A>(odd);
    for (int i = 0; i < K / 2; ++i) {
      v[2 * i] = even[i];
      v[2 * i + 1] = odd[i];
    }
  }
}

// O (d, K) as A^T, rows `row` apart: reads along memory, W rows of O at a time.
template <int K, typename F, typename A>
void transpose_fixed(const F* o, A* at, int64_t row, int64_t d) {
  constexpr int64_t W = kLanes<A>;
  int64_t j = 0;
  for (; j + W <= d; j += W) {
    if constexpr ((K & (K - 1)) == 0) {
      Vec<A> v[K];
      for (int q = 0; q < K; ++q) v[q] = load(o + j * K + q * W);
      deinterleave<K, A>(v);
      for (int q = 0; q < K; ++q) store(at + q * row + j, v[q]);
    } else {
      for (int q = 0; q < K; ++q) {
        for (int64_t i = 0; i < W; ++i) at[q * row + j + i] = widen(o[(j + i) * K + q]);
      }
    }
  }
  for (; j < d; ++j) {
    for (int q = 0; q < K; ++q) at[q * row + j] = widen(o[j * K + q]);
  }
}

template <typename F, typename A>
void transpose(const F* o, A* at, int64_t row, int64_t d, int64_t k) {
  switch (k) {
    case 1:
      return transpose_fixed<1>(o, at, row, d);
    case 2:
      return transpose_fixed<2>(o, at, row, d);
    case 3:
      return transpose_fixed<3>(o, at, row, d);
    case 4:
      return transpose_fixed<4>(o, at, row, d);
    case 5:
      return transpose_fixed<5>(o, at, row, d);
    case 6:
      return transpose_fixed<6>(o, at, row, d);
    case 7:
      return transpose_fixed<7>(o, at, row, d);
    case 8:
      return transpose_fixed<8>(o, at, row, d);
    default:
      break;
  }
  constexpr int64_t kTile = 16;
  for (int64_t j0 = 0; j0 < d; j0 += kTile) {
    const int64_t stop = j0 + kTile < d ? j0 + kTile : d;
    for (int64_t q = 0; q < k; ++q) {
      for (int64_t j = j0; j < stop; ++j) at[q * row + j] = widen(o[j * k + q]);
    }
  }
}

template <typename A>
SF_INLINE A length(const A* c, int64_t k) {
  A squares = 0;
  for (int64_t q = 0; q < k; ++q) squares += c[q] * c[q];
  return A(__builtin_sqrt(squares));
}

// c of one row becomes delta = f(c) - c, or goes to the output.
template <Verb verb, typename T>
struct Finish {
  using A = Acc<T>;
  const MirrorCall& call;
  int64_t group;

  SF_INLINE bool run(const Finish& self, int64_t row, A* c) {
    const MirrorCall& call = self.call;
    const int64_t k = call.k, at = self.group * call.rows + row;
    if constexpr (verb == kCoefficients) {
      T* out = static_cast<T*>(call.out) + at * k;
      for (int64_t q = 0; q < k; ++q) put(out + q, c[q]);
      return false;
    } else if constexpr (verb == kNorms) {
      static_cast<A*>(call.out)[at] = length(c, k);
      return false;
    } else {
      const A* amounts = static_cast<const A*>(call.amounts);
      A amount = amounts[call.one_amount ? 0 : at];
      if (verb == kProx && call.mode == kGroup) {
        const A factor = group_factor(length(c, k), amount);
        for (int64_t q = 0; q < k; ++q) c[q] = c[q] * factor - c[q];
        return true;
      }
      for (int64_t q = 0; q < k; ++q) c[q] = new_coefficient<verb>(c[q], amount) - c[q];
      return true;
    }
  }
};

template <Verb verb, int K, typename T>
void run_rows(const MirrorCall& call, int64_t group, int64_t begin, int64_t end, const Acc<T>* at,
              Acc<T>* c) {
  const T* x = static_cast<const T*>(call.theta) + group * call.rows * call.d;
  T* y = verb >= kCoefficients ? nullptr : static_cast<T*>(call.out) + group * call.rows * call.d;
  const Finish<verb, T> finish{call, group};
  dense_rows<K>(x, y, call.d, at, 0, frame_row(call), call.d, call.k, begin, end, c,
                [&](int64_t row, Acc<T>* values) { return finish.run(finish, row, values); });
}

template <Verb verb, typename T, typename F>
void run_items(const MirrorCall& call, int64_t begin, int64_t end, void* scratch) {
  Acc<T>* at = static_cast<Acc<T>*>(scratch);
  Acc<T>* c = at + frame_row(call) * call.k;
  const int64_t blocks = blocks_per_group(call);
  for (int64_t item = begin, packed = -1; item < end; ++item) {
    const int64_t group = item / blocks, first = item % blocks * call.block;
    const int64_t last = first + call.block < call.rows ? first + call.block : call.rows;
    if (group != packed) {
      transpose(static_cast<const F*>(call.frames) + group * call.d * call.k, at, frame_row(call),
                call.d, call.k);
      packed = group;
    }
    switch (call.k) {
      case 1:
        run_rows<verb, 1, T>(call, group, first, last, at, c);
        break;
      case 2:
        run_rows<verb, 2, T>(call, group, first, last, at, c);
        break;
      case 4:
        run_rows<verb, 4, T>(call, group, first, last, at, c);
        break;
      case 8:
        run_rows<verb, 8, T>(call, group, first, last, at, c);
        break;
      default:
        run_rows<verb, 0, T>(call, group, first, last, at, c);
    }
  }
}

template <typename T, typename F>
void run_verb(const MirrorCall& call, int64_t begin, int64_t end, void* scratch) {
  switch (call.verb) {
    case kReflect:
      return run_items<kReflect, T, F>(call, begin, end, scratch);
    case kProject:
      return run_items<kProject, T, F>(call, begin, end, scratch);
    case kShrink:
      return run_items<kShrink, T, F>(call, begin, end, scratch);
    case kProx:
      return run_items<kProx, T, F>(call, begin, end, scratch);
    case kNorms:
      return run_items<kNorms, T, F>(call, begin, end, scratch);
    default:
      return run_items<kCoefficients, T, F>(call, begin, end, scratch);
  }
}

}  // namespace

void mirror_run(const MirrorCall& call, int64_t begin, int64_t end, void* scratch) {
  const bool own = call.frame_number == call.number;
  switch (call.number) {
    case Number::f64:
      return run_verb<double, double>(call, begin, end, scratch);
    case Number::f32:
      return run_verb<float, float>(call, begin, end, scratch);
    case Number::bf16:
      if (own) return run_verb<bf16, bf16>(call, begin, end, scratch);
      return run_verb<bf16, float>(call, begin, end, scratch);
    case Number::f16:
      if (own) return run_verb<f16, f16>(call, begin, end, scratch);
      return run_verb<f16, float>(call, begin, end, scratch);
  }
}

}  // namespace SYMFAST_ISA
}  // namespace symfast
