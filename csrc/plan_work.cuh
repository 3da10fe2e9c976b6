// SPDX-License-Identifier: Apache-2.0
// What one thread block of a plan kernel knows: its chunk, its task, and where everything lies.
#pragma once
#include "lanes.cuh"
#include "plan_sums.cuh"

namespace symfast {

// A chunk has fewer than 2^31 elements, so counts within it are int; offsets never are.

// Data pointers of a plan's tensors: by value up to kTensors, else a table in device memory.
constexpr int kTensors = 472;
struct TensorTable {
  const int64_t* more;  // addresses
  void* data[kTensors];
};

template <typename T>
struct PlanArguments {
  using A = Accumulate<T>;
  const int64_t *tasks, *chunks, *index;
  const A *frames, *amounts;
  A* out;            // kCoefficients
  double* partials;  // kNorms
  A amount;          // where amounts is null
  int64_t amount_index;
  int cache_bytes;   // dynamic shared memory
  SumArguments add;  // kNorms
  TensorTable tensors;
};

// Amounts that a kernel has found itself, one for each sum of squares of a chunk, as AmountIndex.
constexpr int64_t kPerPartial = 3;

// The numbers of the amounts of mirror k at outer index o: start + k * per_mirror + o * per_outer.
struct Slots {
  int64_t start, per_mirror, per_outer;
};

template <typename T>
struct Work {
  using A = Accumulate<T>;
  const Task& task;
  const Chunk& chunk;
  const PlanArguments<T>& arguments;
  const Slots& slots;
  T* data;  // element (0, 0, 0)

  SF_DEVICE int outer() const { return static_cast<int>(chunk.o1 - chunk.o0); }
  SF_DEVICE int inner() const { return static_cast<int>(chunk.c1 - chunk.c0); }
  SF_DEVICE int mirrors() const { return static_cast<int>(chunk.k1 - chunk.k0); }
  SF_DEVICE int64_t index(int64_t i) const { return load_table(arguments.index + task.pool + i); }
  SF_DEVICE T* element(int64_t o, int64_t i, int64_t c) const {
    return data + o * task.outer_stride + i * task.unit_stride + c * task.inner_stride;
  }
  SF_DEVICE A* output(int64_t row, int64_t o, int64_t c) const {
    return arguments.out + task.out + row * task.out_row + o * task.out_outer + c * task.out_inner;
  }
  SF_DEVICE int64_t slot(int64_t k, int64_t o) const {
    return slots.start + k * slots.per_mirror + o * slots.per_outer;
  }
  template <Verb verb>
  SF_DEVICE A amount(int64_t slot) const {
    return arguments.amounts ? load_amount<verb>(arguments.amounts + slot) : arguments.amount;
  }
  // Units lie closer to each other than columns do: neighbouring threads take neighbouring units.
  SF_DEVICE bool units_first() const {
    return inner() == 1 ? task.unit_stride < task.outer_stride || outer() == 1
                        : task.unit_stride < task.inner_stride;
  }
  // Whole packs of columns are aligned, for every unit and outer index of this chunk.
  SF_DEVICE bool columns_pack() const {
    constexpr int V = kPack<T>;
    const bool steps = (outer() == 1 || task.outer_stride % V == 0) && task.unit_stride % V == 0;
    return task.inner_stride == 1 && inner() % V == 0 && steps &&
           elements_to_boundary(element(chunk.o0, 0, chunk.c0)) == 0;
  }
};

// Columns that a thread takes at once where whole packs of them are aligned. A coefficient of a
// half type is twice as wide: neighbouring threads shall store what fills sectors.
template <Verb verb, typename T>
constexpr int kColumns = verb == kCoefficients && sizeof(T) == 2 ? 4 : kPack<T>;

// V coefficients in a row, in whole packs where they are neighbours in memory and aligned.
template <int V, typename A>
SF_DEVICE void store_coefficients(A* to, int64_t step, const A (&c)[V]) {
  if constexpr (V > 1) {
    static_assert(V == kPack<A>);
    if (step == 1 && elements_to_boundary(to) == 0) {
      Pack<A, V> pack;
#pragma unroll
      for (int v = 0; v < V; ++v) pack.set(v, c[v]);
      store_new_pack<V>(to, pack);
      return;
    }
  }
#pragma unroll
  for (int v = 0; v < V; ++v) store(to + v * step, c[v]);
}

// Counts through the elements (mirror, outer, column pack) of a chunk, nearest in memory first.
struct Walk {
  int near, middle, items;
  bool units_first;

  template <typename T>
  SF_DEVICE Walk(const Work<T>& work, int columns) : units_first(work.units_first()) {
    near = units_first ? work.mirrors() : columns;
    middle = units_first ? columns : work.mirrors();
    items = near * middle * work.outer();
  }
};

// Mirror and column pack of an item, from the chunk's first, and outer index.
struct Item {
  int k, c, o;

  SF_DEVICE Item(const Walk& walk, int item) {
    const Split first = split(item, walk.near), second = split(first.quotient, walk.middle);
    k = walk.units_first ? first.rest : second.rest;
    c = walk.units_first ? second.rest : first.rest;
    o = second.quotient;
  }
};

SF_DEVICE Slots slots_of(const Task& task, const Chunk& chunk, int64_t amount_index) {
  if (amount_index == kPerMirror) return {task.mirror, 1, task.mirror_step};
  if (amount_index == kPerGroup) return {task.group, 0, task.group_step};
  if (amount_index != kPerPartial) return {0, 0, 0};
  if (task.kind != kDense) return {chunk.partial - chunk.k0, 1, 0};
  if (task.mirror_step > 0) return {chunk.partial - chunk.o0, 1, 1};
  return {chunk.partial, 1, 0};
}

// Reads a chunk and its task into the words of a block; no thread may be using them.
template <typename T>
SF_DEVICE void read_chunk(const PlanArguments<T>& arguments, int64_t number, int64_t* words,
                          Slots* slots) {
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t* chunk = arguments.chunks + number * kChunkFields;
  const int64_t* task = arguments.tasks + load_table(chunk) * kTaskFields;
  if (thread < kTaskFields) words[thread] = load_table(task + thread);
  if (thread < kChunkFields) words[kTaskFields + thread] = load_table(chunk + thread);
  __syncthreads();
  if (thread == 0) {
    *slots = slots_of(*reinterpret_cast<const Task*>(words),
                      *reinterpret_cast<const Chunk*>(words + kTaskFields), arguments.amount_index);
  }
  __syncthreads();
}

// The work of the chunk in these words.
template <typename T>
SF_DEVICE Work<T> work_of(const PlanArguments<T>& arguments, const int64_t* words,
                          const Slots* slots) {
  const Task& task = *reinterpret_cast<const Task*>(words);
  void* tensor = arguments.tensors.data[arguments.tensors.more ? 0 : task.tensor];
  if (arguments.tensors.more) {
    tensor = reinterpret_cast<void*>(load_table(arguments.tensors.more + task.tensor));
  }
  return {task, *reinterpret_cast<const Chunk*>(words + kTaskFields), arguments, *slots,
          static_cast<T*>(tensor) + task.base};
}

}  // namespace symfast
