// SPDX-License-Identifier: Apache-2.0
// CPU replica sweep: blocks of replicas of equal seed, batch size and constraint.
#include "replica.h"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "isa.h"
#include "lane_blocks.h"
#include "replica_op.h"
#include "subnormals.h"

namespace symfast {

SYMFAST_DECLARE_PER_ISA(std::int64_t replica_lanes(std::int64_t bytes);
                        void train_replicas_f64(const ReplicaBlock<double>& block,
                                                std::int64_t offset, std::int64_t first_step,
                                                std::int64_t steps);
                        void train_replicas_f32(const ReplicaBlock<float>& block,
                                                std::int64_t offset, std::int64_t first_step,
                                                std::int64_t steps);)

namespace {

constexpr std::int64_t kMostLanes = 16;

template <typename T>
using Train = void (*)(const ReplicaBlock<T>&, std::int64_t, std::int64_t, std::int64_t);

// Replicas that can share the rows of their minibatches, largest batches first. Those that have
// ended already are left out.
template <typename T>
Packing pack(const ReplicaArguments<T>& a, std::int64_t lanes) {
  std::vector<std::int64_t> running;
  for (std::int64_t b = 0; b < a.replicas; ++b)
    if (a.status[b] == static_cast<std::int64_t>(ReplicaStatus::finished)) running.push_back(b);
  return Packing(std::move(running), lanes, [&a](std::int64_t b) {
    return std::make_tuple(-a.batch[b], a.seed[b], a.constraint[b]);
  });
}

template <typename T>
std::int64_t samples_of(const ReplicaArguments<T>& a, std::int64_t b) {
  return a.batch[b] == 0 ? a.samples : a.batch[b];
}

// Memory and bookkeeping of the block a thread is working on; reused for its next block.
template <typename T>
class Worker {
 public:
  Worker(const ReplicaArguments<T>& a, std::int64_t lanes, std::int64_t most_batch, Train<T> train)
      : a_(a),
        progress_(a.progress),
        train_(train),
        lanes_(lanes),
        parameters_(a.model.shape.parameters()),
        theta_(parameters_ * lanes),
        first_(parameters_ * lanes),
        second_(a.model.rule == Optimizer::sgd ? 0 : parameters_ * lanes),
        noise_((std::max(parameters_, a.model.shape.outputs * most_batch) + 3) * lanes),
        active_(a.model.shape.hidden * most_batch * lanes),
        delta_(kUnitBlock * most_batch * lanes),
        output_(a.model.shape.outputs * most_batch * lanes),
        batch_x_(a.model.shape.inputs * most_batch),
        batch_y_(a.model.shape.outputs * most_batch),
        rates_(kRates * lanes) {}

  // Trains the members of a block; between two looks at them, also at a request to cancel.
  void run(const LaneBlock& lane_block) {
    const auto [members, count] = lane_block;
    const FlushSubnormals flush;
    const ReplicaBlock<T> block = load(members, count);
    std::int64_t done = 0, reported = 0, alive = count;
    while (done < a_.steps && alive > 0 && !progress_.cancelled()) {
      const std::int64_t to_look = kLookEvery - (a_.first_step + done) % kLookEvery;
      const std::int64_t chunk = std::min(to_look, a_.steps - done);
      train_(block, done, a_.first_step, chunk);
      done += chunk;
      progress_.report(count * chunk);
      reported += count * chunk;
      if (chunk == to_look) alive -= look(members, count, a_.first_step + done);
    }
    if (alive == 0) progress_.report(count * a_.steps - reported);
    const auto ending =
        alive == 0 || done == a_.steps ? ReplicaStatus::finished : ReplicaStatus::cancelled;
    for (std::int64_t lane = 0; lane < count; ++lane)
      if (alive_[lane]) store(members[lane], lane, a_.first_step + done, ending, T(0));
  }

 private:
  ReplicaBlock<T> load(const std::int64_t* members, std::int64_t count) {
    const std::int64_t b0 = members[0];
    ReplicaBlock<T> block{a_.model,
                          a_.x,
                          a_.y,
                          a_.samples,
                          samples_of(a_, b0),
                          a_.batch[b0] != 0,
                          theta_.get(),
                          first_.get(),
                          second_.get(),
                          noise_.get(),
                          active_.get(),
                          delta_.get(),
                          output_.get(),
                          batch_x_.get(),
                          batch_y_.get(),
                          rates_.get(),
                          schedule_,
                          cell_,
                          power1_,
                          power2_,
                          a_.seed[b0],
                          a_.mirrors,
                          static_cast<Constraint>(a_.constraint[b0]),
                          false,
                          false,
                          false};
    for (std::int64_t lane = 0; lane < lanes_; ++lane) {
      alive_[lane] = lane < count;
      // Idle lanes repeat the first replica: ordinary numbers, never looked at.
      load_lane(members[lane < count ? lane : 0], lane, block);
    }
    return block;
  }

  // Replica b's parameters, rates and keys, and what its block then needs.
  void load_lane(std::int64_t b, std::int64_t lane, ReplicaBlock<T>& block) {
    load_parameters(b, lane);
    for (std::int64_t k = 0; k < kRates; ++k) block_rate(k, lane) = a_.rates[k * a_.replicas + b];
    schedule_[lane] = a_.schedule + a_.kind[b] * a_.steps;
    cell_[lane] = a_.cell[b];
    block.momentum |= rate(Rate::momentum, lane) != 0;
    block.label_noise |= rate(Rate::label_noise, lane) != 0;
    block.gradient_noise |= rate(Rate::gradient_noise, lane) != 0;
    if (a_.model.rule == Optimizer::sgd) return;
    power1_[lane] = power_after(static_cast<double>(rate(Rate::momentum, lane)), a_.first_step);
    power2_[lane] = power_after(static_cast<double>(rate(Rate::beta2, lane)), a_.first_step);
  }

  T& block_rate(std::int64_t row, std::int64_t lane) { return rates_.get()[row * lanes_ + lane]; }
  T rate(Rate row, std::int64_t lane) { return block_rate(static_cast<std::int64_t>(row), lane); }

  void load_parameters(std::int64_t b, std::int64_t lane) {
    for (std::int64_t i = 0; i < parameters_; ++i) {
      theta_.get()[i * lanes_ + lane] = a_.theta[b * parameters_ + i];
      first_.get()[i * lanes_ + lane] = a_.first[b * parameters_ + i];
      if (a_.model.rule != Optimizer::sgd)
        second_.get()[i * lanes_ + lane] = a_.second[b * parameters_ + i];
    }
  }

  // Writes the lanes that diverged. A number that is not finite never becomes finite again: such a
  // replica ends as NaN as a whole, and its lane runs on without being looked at.
  std::int64_t look(const std::int64_t* members, std::int64_t count, std::int64_t taken) {
    T poison[kMostLanes] = {};
    for (std::int64_t i = 0; i < parameters_; ++i)
      for (std::int64_t lane = 0; lane < lanes_; ++lane)
        poison[lane] += T(0) * theta_.get()[i * lanes_ + lane];
    std::int64_t ended = 0;
    for (std::int64_t lane = 0; lane < count; ++lane) {
      if (!alive_[lane] || !std::isnan(poison[lane])) continue;
      store(members[lane], lane, taken, ReplicaStatus::diverged, poison[lane]);
      alive_[lane] = false;
      ++ended;
    }
    return ended;
  }

  // `poison`, zero or NaN, is added to every number.
  void store(std::int64_t b, std::int64_t lane, std::int64_t taken, ReplicaStatus status,
             T poison) {
    a_.status[b] = static_cast<std::int64_t>(status);
    a_.taken[b] = taken;
    const bool velocity = a_.model.rule != Optimizer::sgd || rate(Rate::momentum, lane) != 0;
    for (std::int64_t i = 0; i < parameters_; ++i) {
      const std::int64_t from = i * lanes_ + lane, to = b * parameters_ + i;
      a_.theta[to] = theta_.get()[from] + poison;
      // Without momentum it depends on the neighbours whether a velocity is kept.
      a_.first[to] = (velocity ? first_.get()[from] : T(0)) + poison;
      if (a_.model.rule != Optimizer::sgd) a_.second[to] = second_.get()[from] + poison;
    }
  }

  const ReplicaArguments<T>& a_;
  const ProgressCounter progress_;
  const Train<T> train_;
  const std::int64_t lanes_, parameters_;
  Aligned<T> theta_, first_, second_, noise_, active_, delta_, output_, batch_x_, batch_y_, rates_;
  const T* schedule_[kMostLanes] = {};
  std::int64_t cell_[kMostLanes] = {};
  bool alive_[kMostLanes] = {};
  double power1_[kMostLanes] = {}, power2_[kMostLanes] = {};
};

template <typename T>
void sweep(const ReplicaArguments<T>& a, std::int64_t lanes, Train<T> train) {
  const Packing packing = pack(a, lanes);
  std::int64_t most_batch = 0;
  for (const std::int64_t b : packing.order()) most_batch = std::max(most_batch, samples_of(a, b));
  packing.run([&] { return Worker<T>(a, lanes, most_batch, train); });
}

// What the kernel indexes by; on a GPU the kernel clamps instead.
template <typename T>
void check_tables(const ReplicaArguments<T>& a) {
  const UnitMirrors<T>& m = a.mirrors;
  bool fits = m.offsets[0] == 0 && m.offsets[m.groups] == m.size;
  for (std::int64_t g = 0; fits && g < m.groups; ++g) fits = m.offsets[g] < m.offsets[g + 1];
  for (std::int64_t i = 0; fits && i < m.size; ++i)
    fits = m.members[i] >= 0 && m.members[i] < a.model.shape.hidden;
  require(fits, "replica_sweep_: offsets must cut members, numbers of hidden units, into groups");
  for (std::int64_t b = 0; b < a.replicas; ++b)
    require(a.kind[b] >= 0 && a.kind[b] < a.kinds && a.batch[b] >= 0 && a.cell[b] >= 0 &&
                a.cell[b] < (std::int64_t{1} << 32) && a.constraint[b] >= 0 &&
                a.constraint[b] <= static_cast<std::int64_t>(Constraint::prox),
            "replica_sweep_: kind must name a row of the schedule, batch must not be negative, "
            "cell must lie in 0 .. 2^32 - 1, and constraint in 0 .. 3");
}

struct OnCpu {
  explicit OnCpu(const Tensor& /*like*/) {}
  void launch(const ReplicaArguments<double>& a) const {
    check_tables(a);
    sweep<double>(a, SYMFAST_PICK(replica_lanes)(8), SYMFAST_PICK(train_replicas_f64));
  }
  void launch(const ReplicaArguments<float>& a) const {
    check_tables(a);
    sweep<float>(a, SYMFAST_PICK(replica_lanes)(4), SYMFAST_PICK(train_replicas_f32));
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(symfast, CPU, m) {
  m.impl("replica_sweep_", TORCH_BOX(&replica_sweep<OnCpu>));
}

}  // namespace symfast
