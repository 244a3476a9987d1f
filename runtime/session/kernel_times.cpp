#include "runtime/session/kernel_times.h"

#include "runtime/executor/work.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace moeplan {

namespace {

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t count = values.size();
  return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

} // namespace

void KernelTimer::took(const fb::Dispatch *dispatch, double seconds) {
  const fb::Kernel *kernel = dispatch ? artifact_.kernels()->Get(dispatch->kernel()) : nullptr;
  const auto [row, isNew] = rowOf_.try_emplace(kernel, rows_.size());
  if (isNew)
    rows_.push_back({{kernel}, std::vector<double>(repetitions_)});
  Row &known = rows_[row->second];
  if (repetition_ == 0)
    ++known.time.dispatches;
  else
    known.seconds[repetition_ - 1] += seconds;
}

void KernelTimer::afterDispatch(const fb::Dispatch &dispatch, std::span<void *const> operands,
                                const moeplan_step &step) {
  const fb::Kernel *kernel = artifact_.kernels()->Get(dispatch.kernel());
  if (repetition_ == 0)
    addWork(rows_[rowOf_.at(kernel)].time.work, workOf(*kernel, operands, step));
}

std::vector<KernelTime> KernelTimer::times() const {
  std::vector<KernelTime> times;
  for (const Row &row : rows_) {
    times.push_back(row.time);
    times.back().seconds = median(row.seconds);
  }
  return times;
}

std::string describeKernelTimes(const std::vector<KernelTime> &times) {
  auto list = nlohmann::ordered_json::array();
  for (const KernelTime &time : times)
    list.push_back({{"kernel", time.kernel ? time.kernel->symbol()->str() : "copy"},
                    {"implementation", time.kernel ? time.kernel->implementation()->str() : "copy"},
                    {"machine", time.kernel ? fb::EnumNameMachine(time.kernel->machine()) : ""},
                    {"dispatches", time.dispatches},
                    {"seconds", time.seconds},
                    {"weight_bytes", time.work.weight_bytes},
                    {"cache_bytes", time.work.cache_bytes},
                    {"f32_operations", time.work.f32_operations},
                    {"bf16_operations", time.work.bf16_operations},
                    {"int8_operations", time.work.int8_operations},
                    {"host_bytes", time.work.host_bytes}});
  return list.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

} // namespace moeplan
