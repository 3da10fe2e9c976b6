// SPDX-License-Identifier: Apache-2.0
// Which blocks have a part in which norms, found once per plan: the tables of plan_sums.cuh. Norms
// of mirrors need them only where a mirror lies in several chunks. Norms of groups are found the
// same way, with the sums that a chunk has of groups for those of mirrors.
#pragma once
#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "chunk_mirrors.h"

namespace symfast {

// Neighbouring mirrors [mirror, mirror + count) whose sums of squares come from the same chunks:
// parts [parts, end), one per chunk, in chunk order. Part p of mirror m is the partial sum at
// places[p] + m - mirror.
struct MirrorRun {
  int64_t mirror, count, parts, end;
};
// A chunk's own part of a run.
struct Meeting {
  int64_t run, part;
};
// The meetings of a chunk: [begin, wide) with runs that a whole block adds up, [wide, several) with
// runs that a warp adds up, [several, end) with runs of which no other chunk has a part.
struct ChunkMeetings {
  int64_t begin, wide, several, end;
};

// Numbers that a warp adds up before a block is quicker: about 20 us of waiting for memory.
constexpr int64_t kWide = 4096;

// Of the tables, which lie in a row: runs, chunks, meetings, places. The first `wide` runs are for
// whole blocks, the first `several` have parts of more than one chunk.
struct SumSizes {
  int64_t words = 0, runs = 0, chunks = 0, parts = 0, wide = 0, several = 0;
};

class SumTables {
 public:
  std::vector<int64_t> words;
  SumSizes sizes;

  SumTables() = default;
  // Of mirrors, or (`by_group`) of groups: `mirrors` of them.
  SumTables(const Task* tasks, const Chunk* chunks, int64_t chunk_count, int64_t mirrors,
            bool by_group = false, int64_t partials = 0) {
    if (chunk_count == 0) return;
    find_owners(chunk_count, mirrors, [&](int64_t c) -> ChunkGroups {
      const Task& task = tasks[chunks[c].task];
      if (by_group) return chunk_groups(task, chunks[c], c, partials);
      return {chunk_mirrors(task, chunks[c]), chunks[c].partial};
    });
    std::vector<int64_t> places;
    for (int64_t m = 0; m < mirrors; ++m) extend(m, places);
    const auto wide = order([](int kind) { return kind == 0; });
    const auto several = order([](int kind) { return kind <= 1; });
    for (const MirrorRun& run : found_) add({run.mirror, run.count, run.parts, run.end});
    add_meetings(chunk_count);
    words.insert(words.end(), places.begin(), places.end());
    sizes = {static_cast<int64_t>(words.size()),
             static_cast<int64_t>(found_.size()),
             chunk_count,
             static_cast<int64_t>(places.size()),
             wide,
             several};
    begins_ = {};
    owners_ = {};
    found_ = {};
  }

 private:
  struct Owner {
    int64_t chunk, place;
  };

  void add(std::initializer_list<int64_t> row) { words.insert(words.end(), row); }

  // owners_[begins_[m] .. begins_[m + 1]): the chunks that touch mirror m, in order.
  template <typename Touched>
  void find_owners(int64_t chunk_count, int64_t mirrors, const Touched& touched_by) {
    begins_.assign(static_cast<std::size_t>(mirrors) + 1, 0);
    const auto for_owners = [&](const auto& visit) {
      for (int64_t c = 0; c < chunk_count; ++c) {
        const auto [touched, place] = touched_by(c);
        for (int64_t i = 0; i < touched.count; ++i) {
          visit(static_cast<std::size_t>(touched.first + i * touched.step), Owner{c, place + i});
        }
      }
    };
    for_owners([&](std::size_t m, const Owner&) { ++begins_[m + 1]; });
    for (std::size_t m = 0; m < static_cast<std::size_t>(mirrors); ++m)
      begins_[m + 1] += begins_[m];
    owners_.resize(static_cast<std::size_t>(begins_.back()));
    std::vector<int64_t> next(begins_.begin(), begins_.end() - 1);
    for_owners([&](std::size_t m, const Owner& owner) {
      owners_[static_cast<std::size_t>(next[m]++)] = owner;
    });
  }

  // Mirror m belongs to the run before it, or starts one.
  void extend(int64_t m, std::vector<int64_t>& places) {
    const Owner* mine = owners_.data() + begins_[static_cast<std::size_t>(m)];
    const int64_t count =
        begins_[static_cast<std::size_t>(m) + 1] - begins_[static_cast<std::size_t>(m)];
    bool same = !found_.empty() && found_.back().end - found_.back().parts == count;
    for (int64_t i = 0; same && i < count; ++i) {
      const Owner& before = mine[i - count];  // of mirror m - 1, which has as many
      same = before.chunk == mine[i].chunk && before.place + 1 == mine[i].place;
    }
    if (same) {
      ++found_.back().count;
      return;
    }
    const auto parts_so_far = static_cast<int64_t>(places.size());
    for (int64_t i = 0; i < count; ++i) places.push_back(mine[i].place);
    found_.push_back({m, 1, parts_so_far, parts_so_far + count});
  }

  static int class_of(const MirrorRun& run) {
    const int64_t count = run.end - run.parts;
    if (count <= 1) return 2;
    return run.count * count > kWide ? 0 : 1;
  }

  // Puts the runs of these classes first; returns how many they are.
  template <typename First>
  int64_t order(const First& first) {
    const auto rest = std::stable_partition(
        found_.begin(), found_.end(), [&](const MirrorRun& run) { return first(class_of(run)); });
    return rest - found_.begin();
  }

  // Calls visit(chunk, class, meeting) for all; a run that no chunk touches is the first chunk's.
  template <typename Visit>
  void for_meetings(const Visit& visit) const {
    for (int64_t r = 0; r < static_cast<int64_t>(found_.size()); ++r) {
      const MirrorRun& run = found_[static_cast<std::size_t>(r)];
      const Owner* owners = owners_.data() + begins_[static_cast<std::size_t>(run.mirror)];
      if (run.end == run.parts) visit(int64_t{0}, 2, Meeting{r, run.parts});
      for (int64_t p = run.parts; p < run.end; ++p) {
        visit(owners[p - run.parts].chunk, class_of(run), Meeting{r, p});
      }
    }
  }

  void add_meetings(int64_t chunk_count) {
    std::vector<int64_t> ends(static_cast<std::size_t>(3 * chunk_count), 0);
    for_meetings([&](int64_t chunk, int kind, const Meeting&) {
      ++ends[static_cast<std::size_t>(3 * chunk + kind)];
    });
    int64_t total = 0;
    for (int64_t& end : ends) {
      const int64_t count = end;
      end = total;  // where the next meeting goes
      total += count;
    }
    std::vector<int64_t> meetings(static_cast<std::size_t>(2 * total));
    std::vector<int64_t> begins = ends;
    for_meetings([&](int64_t chunk, int kind, const Meeting& meeting) {
      const int64_t at = 2 * ends[static_cast<std::size_t>(3 * chunk + kind)]++;
      meetings[static_cast<std::size_t>(at)] = meeting.run;
      meetings[static_cast<std::size_t>(at + 1)] = meeting.part;
    });
    for (std::size_t c = 0; c < ends.size(); c += 3) {
      add({begins[c], ends[c], ends[c + 1], ends[c + 2]});
    }
    words.insert(words.end(), meetings.begin(), meetings.end());
  }

  std::vector<int64_t> begins_;
  std::vector<Owner> owners_;
  std::vector<MirrorRun> found_;
};

}  // namespace symfast
