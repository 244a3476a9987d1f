#ifndef MOEPLAN_COMPILER_TRANSFORMS_PASSES_TD
#define MOEPLAN_COMPILER_TRANSFORMS_PASSES_TD

include "mlir/Pass/PassBase.td"

def ApplyPlacement : Pass<"apply-placement", "::mlir::ModuleOp"> {
  let summary = "make a placed copy of the model for each tier";
  let description = [{
    Clones `@forward` for every `moe.tier`, gives each expert the placement that the tier's rules
    decide or its table has, and erases the tiers and `@forward`. It is an error when a rule matches
    no expert, when the rules leave a format or a residency open, or when the table has another
    number of experts than the model. The tier's `miss` becomes the copy's attribute `moe.miss`.
  }];
  let dependentDialects = ["::moeplan::moe::MoeDialect", "::mlir::func::FuncDialect"];
}

def Fuse : Pass<"fuse", "::mlir::ModuleOp"> {
  let summary = "fold residual additions into the attention and the experts that precede them";
  let description = [{
    `moe.add` of a value and the only use of a `moe.attention` or `moe.experts` without a residual
    becomes that op's residual, so that the addition costs no pass over memory.
  }];
  let dependentDialects = ["::moeplan::moe::MoeDialect"];
  let statistics = [Statistic<"numFused", "fused", "residual additions folded">];
}

def ConvertMoeToPlan : Pass<"convert-moe-to-plan", "::mlir::ModuleOp"> {
  let summary = "expand a placed model into plans: kernels, segments, programs of dispatches";
  let description = [{
    Each placed function becomes a `plan.plan` with one program per bucket of tokens: `decode` for
    one token and `prefill_N` for up to N. With `device-tokens` programs in device memory follow, of CUDA
    kernels: `device_decode` for one token, `device_decode_N` for up to 8, `device_prefill_N`. Buffers have no offsets yet and nothing is ordered but by
    its place; `schedule-transfers` and `assign-arena` come next.
  }];
  let options = [
    ListOption<"prefillTokens", "prefill-tokens", "int64_t",
               "max_tokens of each prefill program, ascending (default 8,64,512)">,
    ListOption<"deviceTokens", "device-tokens", "int64_t",
               "max_tokens of each program for CUDA devices, ascending from 1 (default: none)">,
    Option<"kvFormat", "kv-format", "std::string", "\"bf16\"",
           "format of the KV cache: f32, bf16 or int8">,
    Option<"tuningText", "tuning", "std::string", "\"\"",
           "compile-time parameters of the kernels, see KernelTuning::parse()">,
    ListOption<"alsoFormats", "also-formats", "std::string",
               "formats that the expert kernels must read besides those that occur">,
    Option<"synthetic", "synthetic", "bool", "false",
           "the weights are generated: with device-tokens, by a kernel of the device">];
  let dependentDialects = ["::moeplan::moe::MoeDialect", "::moeplan::plan::PlanDialect"];
}

def ScheduleTransfers : Pass<"schedule-transfers", "::mlir::ModuleOp"> {
  let summary = "insert the copies between memories and the barriers that programs need";
  let description = [{
    An operand that lies in another memory than its program's gets a buffer there, a copy before the
    dispatch where it is read and one behind it where it is written. Then a barrier goes before each
    command that reads or writes what a command since the last barrier wrote, or writes what one
    read; of work for the host, which runs beside a device's commands, a join before the first of them
    that needs it. Existing barriers and joins are dropped first: the pass is idempotent.
  }];
  let dependentDialects = ["::moeplan::plan::PlanDialect"];
  let statistics = [Statistic<"numCopies", "copies", "copies inserted">,
                    Statistic<"numBarriers", "barriers", "barriers inserted">];
}

def CheckKernelFormats : Pass<"check-kernel-formats", "::mlir::ModuleOp"> {
  let summary = "prove that every weight is read by a kernel that was made for its format";
  let description = [{
    For each dispatch of each program: an expert table's segments must be in formats of the kernel's
    `formats` (of w1 and w3 for `experts_gate_up`, of w2 for `experts_down`), any other segment in its
    `weight_format`, or in f32 where it has none. Changes nothing. Each kernel is compiled for every
    target, so that this holds for each (expert, format, target).
  }];
  let dependentDialects = ["::moeplan::plan::PlanDialect"];
}

def AssignArena : Pass<"assign-arena", "::mlir::ModuleOp"> {
  let summary = "give every scratch buffer its offset in the program's arena";
  let description = [{
    Two buffers may share bytes when no stretch between two barriers touches both; what work for the
    host touches is taken until its join. Pinned buffers have an arena of their own. Greedy by size:
    the largest buffer first, each at the lowest offset where it fits (Pisarchyk and Lee, arXiv
    2001.03288). Buffers that nothing touches are erased.
  }];
  let dependentDialects = ["::moeplan::plan::PlanDialect"];
}

#endif
