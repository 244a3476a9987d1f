#include "compiler/transforms/program_builder.h"

using namespace mlir;
using namespace moeplan;
using namespace moeplan::compiler;

ModuleBuilder::ModuleBuilder(ModuleOp module) : builder(module.getBodyRegion()), symbols(module) {
  builder.setInsertionPointToEnd(module.getBody());
}

FlatSymbolRefAttr ModuleBuilder::kernel(StringRef implementation,
                                        ArrayRef<KernelConstant> constants, plan::Machine machine,
                                        std::optional<int64_t> bindings) {
  // CUDA's compiler knows functions of its own, as `norm`.
  std::string name = (machine == plan::Machine::Cuda ? "cuda_" : "") + implementation.str();
  SmallVector<NamedAttribute> attributes;
  for (const KernelConstant &constant : constants) {
    Attribute value = builder.getI64IntegerAttr(constant.integer);
    if (constant.isReal)
      value = builder.getF64FloatAttr(constant.real);
    else
      name += "_" + std::to_string(constant.integer);
    attributes.push_back(builder.getNamedAttr(constant.name, value));
  }
  DictionaryAttr dictionary = builder.getDictionaryAttr(attributes);
  // Reals are not in the name: a second set of them gets a number.
  for (unsigned suffix = 0;; ++suffix) {
    std::string candidate = suffix ? name + "_v" + std::to_string(suffix) : name;
    auto existing = symbols.lookup<plan::KernelOp>(candidate);
    if (existing && existing.getConstants() != dictionary)
      continue;
    if (!existing) {
      existing = builder.create<plan::KernelOp>(
          builder.getUnknownLoc(), candidate, implementation, machine, dictionary,
          bindings ? builder.getI64IntegerAttr(*bindings) : IntegerAttr());
      symbols.insert(existing);
    }
    return FlatSymbolRefAttr::get(existing);
  }
}

plan::SegmentOp ModuleBuilder::segment(StringRef name, StringRef source, ArrayRef<int64_t> shape,
                                       StringRef format) {
  std::string symbol = (name + "@" + format).str();
  if (auto existing = symbols.lookup<plan::SegmentOp>(symbol))
    return existing;
  auto segment =
      builder.create<plan::SegmentOp>(builder.getUnknownLoc(), symbol, source, format, shape);
  symbols.insert(segment);
  return segment;
}

ProgramBuilder::ProgramBuilder(ModuleBuilder &module, plan::ProgramOp program,
                               const KernelTuning &tuning, plan::Machine machine,
                               plan::Memory memory, plan::Memory scratch)
    : module(module), maxTokens_(program.getMaxTokens()), tuning_(tuning), loc(program.getLoc()),
      builder(program.getBody()), machine(machine),
      bufferType(plan::BufferType::get(program.getContext(), memory)),
      scratchType(plan::BufferType::get(program.getContext(), scratch)) {
  builder.setInsertionPointToEnd(&program.getBody().front());
}

ProgramBuilder::ProgramBuilder(ModuleBuilder &module, plan::ProgramOp program,
                               const KernelTuning &tuning)
    : ProgramBuilder(module, program, tuning,
                     program.getMemory() == plan::Memory::Device ? plan::Machine::Cuda
                                                                 : plan::Machine::Cpu,
                     program.getMemory(), program.getMemory()) {}

ProgramBuilder ProgramBuilder::forHost(ModuleBuilder &module, plan::ProgramOp program,
                                       const KernelTuning &tuning) {
  return ProgramBuilder(module, program, tuning, plan::Machine::Cpu, plan::Memory::Host,
                        plan::Memory::Pinned);
}

Value ProgramBuilder::alloc(int64_t bytes) {
  return builder.create<plan::AllocOp>(loc, scratchType, bytes, IntegerAttr());
}

Value ProgramBuilder::weight(plan::SegmentOp segment) {
  return builder.create<plan::WeightOp>(loc, bufferType, FlatSymbolRefAttr::get(segment));
}

Value ProgramBuilder::resource(plan::ResourceKind kind, int64_t index, int64_t bytes) {
  return builder.create<plan::ResourceOp>(loc, bufferType, kind, index, bytes);
}

void ProgramBuilder::dispatch(StringRef implementation, ArrayRef<KernelConstant> constants,
                              Grid grid, ArrayRef<Operand> operands) {
  SmallVector<Value> buffers;
  SmallVector<Attribute> accesses;
  for (const Operand &operand : operands) {
    buffers.push_back(operand.buffer);
    accesses.push_back(plan::AccessAttr::get(builder.getContext(), operand.access));
  }
  builder.create<plan::DispatchOp>(
      loc, module.kernel(implementation, constants, machine), builder.getI64IntegerAttr(grid.tiles),
      grid.perToken ? builder.getUnitAttr() : UnitAttr(), buffers, builder.getArrayAttr(accesses));
}

void ProgramBuilder::copy(Value source, Value target, int64_t bytes) {
  builder.create<plan::CopyOp>(loc, source, target, bytes);
}

int64_t ProgramBuilder::rowsPerTile(int64_t rows, int64_t bytesPerRow, int64_t multiple) const {
  constexpr int64_t kTiles = 32;
  if (maxTokens() > 1)
    return std::min(rows, multiple);
  int64_t wanted = tuning_.tileBytes / bytesPerRow;
  wanted = std::min(wanted, rows / kTiles) / multiple * multiple;
  return std::min(rows, std::max(wanted, multiple));
}
