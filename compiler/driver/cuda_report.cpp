#include "compiler/driver/cuda_report.h"

#include "compiler/driver/text_table.h"
#include "runtime/artifact/kernel_libraries.h"
#include "runtime/support/units.h"

#include "llvm/ADT/STLExtras.h"

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

std::string moeplan::compiler::printCuda(const CudaReport &report) {
  std::string text;
  raw_string_ostream out(text);
  std::vector<std::vector<std::string>> rows{{"CUDA kernel"}};
  for (const std::string &target : report.targets)
    if (!cudaTargetOf(target)->isPtx)
      rows.front().insert(rows.front().end(), {target + " registers", "shared", "spills"});
  for (const CudaReport::Kernel &kernel : report.kernels) {
    std::vector<std::string> row{kernel.symbol};
    for (auto [target, used] : zip_equal(report.targets, kernel.resources)) {
      if (cudaTargetOf(target)->isPtx)
        continue;
      row.push_back(used.registers ? std::to_string(*used.registers) : "?");
      row.push_back(used.sharedBytes ? formatBytes(used.sharedBytes) : "-");
      row.push_back(used.spillBytes ? formatBytes(used.spillBytes) : "-");
    }
    rows.push_back(std::move(row));
  }
  printTable(out, rows);
  return text;
}

void moeplan::compiler::writeCuda(json::OStream &out, const CudaReport &report) {
  out.attributeObject("cuda", [&] {
    out.attributeArray("targets", [&] {
      for (const std::string &target : report.targets)
        out.value(target);
    });
    out.attributeArray("kernels", [&] {
      for (const CudaReport::Kernel &kernel : report.kernels)
        for (auto [target, used, bytes] :
             zip_equal(report.targets, kernel.resources, kernel.imageBytes))
          out.object([&, target = target, used = used, bytes = bytes] {
            out.attribute("symbol", kernel.symbol);
            out.attribute("implementation", kernel.implementation);
            out.attribute("target", target);
            out.attribute("image_bytes", int64_t(bytes));
            out.attribute("registers", used.registers ? json::Value(int64_t(*used.registers))
                                                      : json::Value(nullptr));
            out.attribute("shared_bytes", int64_t(used.sharedBytes));
            out.attribute("spill_bytes", int64_t(used.spillBytes));
          });
    });
  });
}

std::vector<std::string> moeplan::compiler::spillWarnings(const CudaReport &report) {
  std::vector<std::string> warnings;
  for (const CudaReport::Kernel &kernel : report.kernels)
    for (auto [target, used] : zip_equal(report.targets, kernel.resources))
      if (kernel.isDecode && used.spillBytes > 0)
        warnings.push_back("warning: " + kernel.symbol + " spills " +
                           std::to_string(used.spillBytes) + " bytes of registers on " + target +
                           ": decoding will be slower than it could be");
  return warnings;
}
