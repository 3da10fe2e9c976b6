// SPDX-License-Identifier: Apache-2.0
// A step and a verb on chunks of a plan, once per instruction set. Where an index frame's units lie
// in long stretches of memory, a few cache lines are stepped on, and the verb changes them while
// the first-level cache has them and memory answers for the next: over the whole chunk, it would
// wait for the second level while memory waits for it. Elsewhere the chunk is stepped on as a
// whole, then the verb runs.
#include <cstring>

#include "plan_gather_simd.h"
#include "update_call.h"

namespace symfast {
namespace SYMFAST_ISA {

void update_span(const UpdateCall& call, const Span& span);
void plan_run(const PlanCall& call, int64_t begin, int64_t end, void* scratch);

namespace {

constexpr int64_t kBlock = 256;  // elements: of float with gradient and states, 4 KB
constexpr int64_t kLong = 128;   // elements that follow each other and are worth a call

enum class Way { kWhole, kRuns, kNear };

// Elements of a task's runs that follow each other, on average. Rows of adjacent units must be
// stepped on whole, so that a single run has to have all of them.
int64_t run_length(const PlanCall& plan, const Task& task, const Chunk& chunk) {
  if (task.count == 0 || (task.kind != kRows && task.kind != kPairs)) return 0;
  const int64_t width = chunk.c1 - chunk.c0, *runs = plan.index + task.pool;
  const int64_t* last = runs + 4 * (task.count - 1);
  const int64_t mirrors = last[3] + last[2];
  if (task.unit_stride == 1 && task.inner == 1) {
    const bool all = task.kind == kRows && task.count == 1 && mirrors == task.units;
    return all ? task.units : 0;
  }
  if (task.unit_stride != task.inner || width != task.inner) return width;
  return mirrors / task.count * width;
}

// Whether partners share a vector, where the verb alone would see to that, too (run_gathered).
template <typename A>
bool are_near(const PlanCall& plan, const Task& task) {
  if (task.kind != kPairsScattered || !transposes(task) || task.outer < 8 ||
      task.count * 2 > task.units) {
    return false;
  }
  const int64_t* words = plan.index + task.pool;
  for (int64_t i = 0; i < task.count; ++i) {
    if ((words[i] & 0xffffffff) / kLanes<A> != (words[i] >> 32) / kLanes<A>) return false;
  }
  return true;
}

template <typename A>
Way way_of(const PlanCall& plan, const Chunk& chunk) {
  const Task& task = plan.tasks[chunk.task];
  if (plan.amount_index == kPerMirror) return Way::kWhole;
  if (run_length(plan, task, chunk) >= kLong) return Way::kRuns;
  return are_near<A>(plan, task) ? Way::kNear : Way::kWhole;
}

template <Verb verb, typename T>
struct Blocks {
  using A = Acc<T>;
  const UpdateCall& update;
  const PlanCall& plan;
  const Task& task;
  const Chunk& chunk;
  T* const data;
  const A amount;

  // n adjacent elements from a on, and with pairs their partners from b on, all at once: memory
  // answers late to two stretches by turns. Blocks end where those of random numbers do.
  template <bool pairs>
  void run(int64_t a, int64_t b, int64_t n) const {
    for (int64_t i = 0, count; i < n; i += count) {
      const int64_t rest = n - i, block = kBlock - (a + i) % kBlock;
      count = pairs || rest < block ? rest : block;
      update_span(update, {task.tensor, a + i, a + i + count, pairs ? 2 : 1, b - a});
      update_span<verb, pairs>(data + a + i, data + b + i, count, amount);
    }
  }

  // Frames stored as runs of units.
  template <bool pairs>
  void run_runs() const {
    const int64_t* runs = plan.index + task.pool;
    const int64_t width = chunk.c1 - chunk.c0, unit = task.unit_stride;
    const bool joined = unit == task.inner && width == task.inner;
    for (int64_t o = chunk.o0; o < chunk.o1; ++o) {
      const int64_t base = task.base + o * task.outer_stride + chunk.c0;
      for (int64_t r = chunk.first; r < task.count && runs[4 * r + 3] < chunk.k1; ++r) {
        const int64_t* now = runs + 4 * r;
        const int64_t from = now[3] < chunk.k0 ? chunk.k0 - now[3] : 0;
        const int64_t stop = now[3] + now[2] < chunk.k1 ? now[2] : chunk.k1 - now[3];
        const int64_t a = base + now[0] * unit, b = base + now[1] * unit;
        if (joined) {
          run<pairs>(a + from * unit, b + from * unit, (stop - from) * width);
        } else {
          for (int64_t i = from; i < stop; ++i) run<pairs>(a + i * unit, b + i * unit, width);
        }
      }
    }
  }

  // Pairs of units within a vector, in rows of adjacent units; `lanes` has every unit's partner.
  void run_near(const NumberOf<A>* lanes) const {
    constexpr int64_t W = kLanes<A>;
    const bool whole = task.count * 2 == task.units;
    const int64_t units = task.units;
    for (int64_t o = chunk.o0; o < chunk.o1; ++o) {
      const int64_t row = task.base + o * task.outer_stride;
      for (int64_t j = 0; j < units; j += kBlock) {
        const int64_t stop = units - j < kBlock ? units : j + kBlock;
        update_span(update, {task.tensor, row + j, row + stop});
        T* p = data + row;
        int64_t i = j;
        for (; i + W <= stop; i += W) store(p + i, beside(load(p + i), lanes + i, whole));
        if (i == stop) continue;
        store_some(p + i, beside(load_some(p + i, stop - i), lanes + i, false), stop - i);
      }
    }
  }

  Vec<A> beside(Vec<A> u, const NumberOf<A>* lanes, bool whole) const {
    LaneNumbers<A> at, own;
    std::memcpy(&at, lanes, sizeof(at));
    for (int l = 0; l < kLanes<A>; ++l) own[l] = static_cast<NumberOf<A>>(l);
    const Vec<A> found = new_unit<verb, false>(u, permute<A>(u, at), amount);
    return whole ? found : choose<A>(at == own, u, found);
  }
};

// Of every unit the lane of its partner, or its own.
template <typename A>
const NumberOf<A>* partner_lanes(const PlanCall& plan, const Task& task, void* scratch) {
  constexpr int64_t W = kLanes<A>;
  auto* lanes = static_cast<NumberOf<A>*>(scratch);
  for (int64_t j = 0; j < task.units + W; ++j) lanes[j] = static_cast<NumberOf<A>>(j % W);
  const int64_t* words = plan.index + task.pool;
  for (int64_t i = 0; i < task.count; ++i) {
    const int64_t a = words[i] & 0xffffffff, b = words[i] >> 32;
    lanes[a] = static_cast<NumberOf<A>>(b % W);
    lanes[b] = static_cast<NumberOf<A>>(a % W);
  }
  return lanes;
}

template <Verb verb, typename T>
void run_range(const UpdateCall& update, const PlanCall& plan, int64_t begin, int64_t end,
               void* scratch) {
  using A = Acc<T>;
  for (int64_t c = begin, next; c < end; c = next) {
    const Chunk& first = plan.chunks[c];
    const Task& task = plan.tasks[first.task];
    for (next = c + 1; next < end && plan.chunks[next].task == first.task;) ++next;
    const Way way = way_of<A>(plan, first);
    if (way == Way::kWhole) {
      plan_run(plan, c, next, scratch);
      continue;
    }
    const A amount = Amounts<A>::of(plan).at(task.group, 0);
    T* data = static_cast<T*>(plan.data[task.tensor]);
    const auto* lanes = way == Way::kNear ? partner_lanes<A>(plan, task, scratch) : nullptr;
    for (; c < next; ++c) {
      const Blocks<verb, T> blocks{update, plan, task, plan.chunks[c], data, amount};
      if (way == Way::kNear) {
        blocks.run_near(lanes);
      } else if (task.kind == kRows) {
        blocks.template run_runs<false>();
      } else {
        blocks.template run_runs<true>();
      }
    }
  }
}

template <typename T>
void run_verb(const UpdateCall& update, const PlanCall& plan, int64_t begin, int64_t end,
              void* scratch) {
  switch (plan.verb) {
    case kReflect:
      return run_range<kReflect, T>(update, plan, begin, end, scratch);
    case kProject:
      return run_range<kProject, T>(update, plan, begin, end, scratch);
    case kShrink:
      return run_range<kShrink, T>(update, plan, begin, end, scratch);
    default:
      return run_range<kProx, T>(update, plan, begin, end, scratch);
  }
}

}  // namespace

void update_chunks(const UpdateCall& update, const PlanCall& plan, int64_t begin, int64_t end,
                   void* scratch) {
  switch (plan.number) {
    case Number::f64:
      return run_verb<double>(update, plan, begin, end, scratch);
    case Number::f32:
      return run_verb<float>(update, plan, begin, end, scratch);
    case Number::bf16:
      return run_verb<bf16>(update, plan, begin, end, scratch);
    case Number::f16:
      return run_verb<f16>(update, plan, begin, end, scratch);
  }
}

}  // namespace SYMFAST_ISA
}  // namespace symfast
