#include "compiler/codegen/kernel_library.h"

#include "compiler/codegen/link.h"
#include "kernel_abi.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Bitcode/BitcodeReader.h"
#include "llvm/Config/llvm-config.h"
#include "llvm/IR/DiagnosticInfo.h"
#include "llvm/IR/IRBuilder.h"
#include "llvm/IR/InstIterator.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/IR/Module.h"
#include "llvm/IR/Verifier.h"
#include "llvm/MC/TargetRegistry.h"
#include "llvm/Object/ELFObjectFile.h"
#include "llvm/Passes/PassBuilder.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/Support/ThreadPool.h"
#include "llvm/Support/raw_ostream.h"
#include "llvm/Target/TargetMachine.h"
#include "llvm/Transforms/IPO/GlobalDCE.h"

#include <map>
#include <mutex>
#include <optional>

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

/// The parameters of a micro-kernel before its bindings: step, tile_begin, tile_end.
constexpr unsigned kRangeParameters = 3;

Expected<std::unique_ptr<TargetMachine>> createTargetMachine(const CpuTarget &target) {
  static std::once_flag initialized;
  std::call_once(initialized, [] {
    InitializeNativeTarget();
    InitializeNativeTargetAsmPrinter();
  });
  std::string error;
  const Target *registered = TargetRegistry::lookupTarget(target.triple, error);
  if (!registered)
    return createStringError("no code generator for " + target.triple + ": " + error);
  return std::unique_ptr<TargetMachine>(registered->createTargetMachine(
      target.triple, target.cpu, target.llvmFeatures, TargetOptions(), Reloc::PIC_, std::nullopt,
      CodeGenOptLevel::Aggressive));
}

std::string implementationName(const KernelSpec &kernel) {
  return "moeplan_cpu_" + kernel.implementation;
}

/// Adds to the bitcode module one wrapper per kernel.
class Specializer {
public:
  Specializer(Module &module, const CpuTarget &target)
      : module(module), builder(module.getContext()) {
    // Attributes of a function override the target machine's CPU. The kernels' own vectors must not
    // be split where a CPU's tuning prefers shorter ones.
    attributes.addAttribute("target-cpu", target.cpu);
    attributes.addAttribute("target-features", target.llvmFeatures);
    std::string bits = std::to_string(32 * target.kernels->lanes);
    attributes.addAttribute("prefer-vector-width", bits);
    attributes.addAttribute("min-legal-vector-width", bits);
    // A loop that clears or copies must not become a call of memset or memcpy: a kernel library has
    // no dependencies.
    attributes.addAttribute("no-builtins");
    for (Function &function : module) {
      if (function.isDeclaration())
        continue;
      for (StringRef name : {"target-cpu", "target-features", "tune-cpu"})
        function.removeFnAttr(name);
      function.removeFnAttr(Attribute::NoInline);
      function.removeFnAttr(Attribute::OptimizeNone);
      function.addFnAttr(Attribute::AlwaysInline);
      function.addFnAttrs(attributes);
      function.setLinkage(GlobalValue::InternalLinkage);
    }
  }

  Error addWrapper(const KernelSpec &kernel) {
    Function *implementation = module.getFunction(implementationName(kernel));
    if (!implementation)
      return fail(kernel, "there is no micro-kernel '" + kernel.implementation + "'");
    Type *pointer = builder.getPtrTy(), *i64 = builder.getInt64Ty();
    Function *wrapper = Function::Create(
        FunctionType::get(builder.getVoidTy(), {pointer, pointer, i64, i64}, false),
        GlobalValue::ExternalLinkage, kernel.symbol, module);
    wrapper->addFnAttrs(attributes);
    wrapper->addFnAttr(Attribute::NoUnwind);
    builder.SetInsertPoint(BasicBlock::Create(module.getContext(), "entry", wrapper));

    std::map<StringRef, const std::variant<int64_t, double> *> constants;
    for (const auto &[name, value] : kernel.constants)
      constants[name] = &value;
    SmallVector<Value *> arguments{wrapper->getArg(1), wrapper->getArg(2), wrapper->getArg(3)};
    unsigned bindings = 0;
    for (Argument &parameter : drop_begin(implementation->args(), kRangeParameters)) {
      if (parameter.getType()->isPointerTy()) {
        Value *slot = builder.CreateConstInBoundsGEP1_64(pointer, wrapper->getArg(0), bindings++);
        arguments.push_back(builder.CreateLoad(pointer, slot));
        continue;
      }
      auto constant = constants.find(parameter.getName());
      if (constant == constants.end())
        return fail(kernel, "constant '" + parameter.getName() + "' is missing");
      bool isReal = std::holds_alternative<double>(*constant->second);
      if (isReal != parameter.getType()->isDoubleTy())
        return fail(kernel, "constant '" + parameter.getName() + "' must be " +
                                (isReal ? "an integer" : "a float"));
      arguments.push_back(isReal ? static_cast<Value *>(ConstantFP::get(
                                       parameter.getType(), std::get<double>(*constant->second)))
                                 : builder.getInt64(std::get<int64_t>(*constant->second)));
      constants.erase(constant);
    }
    if (!constants.empty())
      return fail(kernel, "micro-kernel '" + kernel.implementation + "' has no constant '" +
                              constants.begin()->first + "'");
    if (bindings != kernel.bindings)
      return fail(kernel, "takes " + Twine(bindings) + " operands, dispatched with " +
                              Twine(kernel.bindings));
    builder.CreateCall(implementation, arguments);
    builder.CreateRetVoid();
    return Error::success();
  }

  void addAbiVersion() {
    new GlobalVariable(module, builder.getInt32Ty(), /*isConstant=*/true,
                       GlobalValue::ExternalLinkage, builder.getInt32(MOEPLAN_KERNEL_ABI_VERSION),
                       MOEPLAN_KERNEL_ABI_SYMBOL);
  }

private:
  static Error fail(const KernelSpec &kernel, const Twine &message) {
    return createStringError("kernel " + kernel.symbol + ": " + message);
  }

  Module &module;
  IRBuilder<> builder;
  AttrBuilder attributes{module.getContext()};
};

void optimize(Module &module, TargetMachine &machine) {
  LoopAnalysisManager loops;
  FunctionAnalysisManager functions;
  CGSCCAnalysisManager sccs;
  ModuleAnalysisManager modules;
  PipelineTuningOptions tuning;
  tuning.LoopVectorization = tuning.SLPVectorization = tuning.LoopUnrolling = true;
  PassBuilder passes(&machine, tuning);
  passes.registerModuleAnalyses(modules);
  passes.registerCGSCCAnalyses(sccs);
  passes.registerFunctionAnalyses(functions);
  passes.registerLoopAnalyses(loops);
  passes.crossRegisterProxies(loops, functions, sccs, modules);
  ModulePassManager pipeline;
  pipeline.addPass(GlobalDCEPass()); // micro-kernels that no plan uses
  pipeline.addPass(passes.buildPerModuleDefaultPipeline(OptimizationLevel::O3));
  pipeline.run(module, modules);
}

Expected<std::string> emitObject(Module &module, TargetMachine &machine) {
  SmallVector<char, 0> object;
  raw_svector_ostream stream(object);
  legacy::PassManager passes;
  if (machine.addPassesToEmitFile(passes, stream, nullptr, CodeGenFileType::ObjectFile))
    return createStringError("the target cannot emit object files");
  passes.run(module);
  return std::string(object.begin(), object.end());
}

/// The micro-kernels with the bodies of `name` and of what it calls alone: the others, which are
/// most of them, are not even read.
Expected<std::unique_ptr<Module>> loadMicroKernel(const CpuTarget &target, StringRef name,
                                                  LLVMContext &context) {
  const std::span<const char> bitcode = target.kernels->bytes();
  auto parsed = getLazyBitcodeModule(
      MemoryBufferRef(StringRef(bitcode.data(), bitcode.size()), "micro-kernels"), context);
  if (!parsed)
    return parsed.takeError();
  Module &module = **parsed;
  if (Error error = module.materializeMetadata())
    return error;
  SmallVector<Function *> wanted;
  if (Function *function = module.getFunction(name))
    wanted.push_back(function);
  while (!wanted.empty()) {
    Function &function = *wanted.pop_back_val();
    if (!function.isMaterializable())
      continue;
    if (Error error = function.materialize())
      return error;
    for (const Instruction &instruction : instructions(function))
      for (Value *operand : instruction.operands())
        if (auto *callee = dyn_cast<Function>(operand->stripPointerCasts()))
          wanted.push_back(callee);
  }
  for (Function &function : module)
    if (function.isMaterializable())
      function.deleteBody();
  if (Error error = module.materializeAll())
    return error;
  return std::move(*parsed);
}

/// The object of one kernel, or of the ABI's version where `kernel` is null.
Expected<std::string> compileObject(const KernelSpec *kernel, const CpuTarget &target) {
  auto machine = createTargetMachine(target);
  if (!machine)
    return machine.takeError();
  LLVMContext context;
  // A loop that a kernel wants unrolled may have no constant length in a specialisation for several
  // formats; that is no news for a user.
  context.setDiagnosticHandlerCallBack([](const DiagnosticInfo *, void *) {});
  auto loaded =
      loadMicroKernel(target, kernel ? implementationName(*kernel) : std::string(), context);
  if (!loaded)
    return loaded.takeError();
  Module &module = **loaded;
  module.setDataLayout((*machine)->createDataLayout());
  module.setTargetTriple(target.triple);
  Specializer specializer(module, target);
  if (kernel) {
    if (Error error = specializer.addWrapper(*kernel))
      return error;
  } else {
    specializer.addAbiVersion();
  }
  std::string problem;
  raw_string_ostream stream(problem);
  if (verifyModule(module, &stream))
    return createStringError("internal: specialised kernels do not verify: " + problem);
  optimize(module, **machine);
  return emitObject(module, **machine);
}

/// The bytes of machine code of `symbol` in an object.
Expected<uint32_t> codeBytesOf(StringRef object, StringRef symbol) {
  auto file = object::ObjectFile::createELFObjectFile(MemoryBufferRef(object, "kernels.o"));
  if (!file)
    return file.takeError();
  for (object::ELFSymbolRef each : (*file)->symbols()) {
    Expected<StringRef> name = each.getName();
    if (!name)
      return name.takeError();
    if (*name == symbol)
      return uint32_t(each.getSize());
  }
  return 0;
}

/// Names all that decides an object.
CacheKey objectKey(const KernelSpec &kernel, const CpuTarget &target) {
  CacheKey key("kernel");
  const std::span<const char> bitcode = target.kernels->bytes();
  static const std::string generator = ListDigest()
                                           .add(LLVM_VERSION_STRING)
                                           .add(MOEPLAN_CODEGEN_SOURCES)
                                           .add(uint64_t(MOEPLAN_KERNEL_ABI_VERSION))
                                           .hex();
  key.add(generator).add(digestOf(StringRef(bitcode.data(), bitcode.size())));
  key.add(target.triple).add(target.cpu).add(target.llvmFeatures);
  key.add(uint64_t(target.kernels->lanes));
  key.add(kernel.symbol).add(kernel.implementation).add(uint64_t(kernel.bindings));
  for (const auto &[name, value] : kernel.constants) {
    key.add(name);
    if (const auto *integer = std::get_if<int64_t>(&value))
      key.add("integer").add(uint64_t(*integer));
    else
      key.add("real").add(std::get<double>(value));
  }
  return key;
}

/// One kernel of a library.
struct Job {
  const KernelSpec *kernel;
  std::string object = {};
  uint32_t codeBytes = 0;
  std::optional<std::string> problem = {};

  void run(const CpuTarget &target, BuildCache *cache) {
    if (Error error = make(target, cache))
      problem = toString(std::move(error));
  }

private:
  Error make(const CpuTarget &target, BuildCache *cache) {
    const CacheKey key = objectKey(*kernel, target);
    if (auto found = cache ? cache->find(key) : nullptr) {
      object = found->getBuffer().str();
    } else {
      auto compiled = compileObject(kernel, target);
      if (!compiled)
        return compiled.takeError();
      object = std::move(*compiled);
      if (cache)
        cache->store(key, arrayRefFromStringRef(object));
    }
    auto bytes = codeBytesOf(object, kernel->symbol);
    if (!bytes)
      return bytes.takeError();
    codeBytes = *bytes;
    return Error::success();
  }
};

} // namespace

Expected<KernelLibrary> moeplan::compiler::compileKernels(ArrayRef<KernelSpec> kernels,
                                                          const CpuTarget &target,
                                                          BuildCache *cache) {
  std::vector<Job> jobs;
  for (const KernelSpec &kernel : kernels)
    if (kernel.machine == Machine::Cpu)
      jobs.push_back({&kernel});
  auto abiVersion = compileObject(nullptr, target);
  if (!abiVersion)
    return abiVersion.takeError();
  {
    DefaultThreadPool pool;
    for (Job &job : jobs)
      pool.async([&] { job.run(target, cache); });
    pool.wait();
  }
  KernelLibrary library;
  library.target = target;
  std::vector<std::string> objects{std::move(*abiVersion)};
  Job *job = jobs.data();
  for (const KernelSpec &kernel : kernels) {
    library.codeBytes.push_back(0);
    if (kernel.machine != Machine::Cpu)
      continue;
    if (job->problem)
      return createStringError(*job->problem);
    library.codeBytes.back() = job->codeBytes;
    objects.push_back(std::move(job->object));
    ++job;
  }
  auto elf = linkSharedObject(objects);
  if (!elf)
    return elf.takeError();
  library.elf = std::move(*elf);
  return library;
}
