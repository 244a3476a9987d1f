#ifndef MOEPLAN_DIALECTS_PLAN_OPS_TD
#define MOEPLAN_DIALECTS_PLAN_OPS_TD

include "PlanDialect.td"
include "mlir/IR/OpAsmInterface.td"
include "mlir/IR/RegionKindInterface.td"
include "mlir/IR/SymbolInterfaces.td"

class Plan_Op<string mnemonic, list<Trait> traits = []> : Op<Plan_Dialect, mnemonic, traits>;

def Plan_ByteCount : ConfinedAttr<I64Attr, [IntPositive]>;

//===--- module level -------------------------------------------------------------------------===//

def Plan_SegmentOp : Plan_Op<"segment", [Symbol]> {
  let summary = "a weight of the artifact in one format";
  let description = [{
    `source` is the checkpoint tensor that is converted to `format`. Plans share segments.

    Example:
    ```mlir
    plan.segment @"layers.0.experts.5.w1@bf16" source "model.layers.0.block_sparse_moe.experts.5.w1.weight" format "bf16" shape [256, 128]
    ```
  }];
  let arguments = (ins SymbolNameAttr:$sym_name, StrAttr:$source, StrAttr:$format,
                       DenseI64ArrayAttr:$shape);
  let assemblyFormat = "$sym_name `source` $source `format` $format `shape` $shape attr-dict";
  let hasVerifier = 1;
  let extraClassDeclaration = [{
    /// Bytes of the segment's data.
    int64_t getBytes();
  }];
}

def Plan_KernelOp : Plan_Op<"kernel", [Symbol]> {
  let summary = "a micro-kernel with its constants fixed";
  let description = [{
    `implementation` names a micro-kernel of `kernels/`, `constants` fixes each of its constant
    parameters (integers or float64). One machine-code function per kernel and target of its machine.
    `bindings` is how many operands a kernel has that no program dispatches: the runtime calls it.

    Example:
    ```mlir
    plan.kernel @rms_norm_128 implements "rms_norm" {epsilon = 1.0e-05 : f64, features = 128 : i64, logits_rows = 0 : i64}
    plan.kernel @cuda_add_128_256 implements "add" machine cuda {features = 128 : i64, threads = 256 : i64}
    ```
  }];
  let arguments = (ins SymbolNameAttr:$sym_name, StrAttr:$implementation,
                       DefaultValuedAttr<Plan_MachineAttr, "::moeplan::plan::Machine::Cpu">:$machine,
                       DictionaryAttr:$constants, OptionalAttr<Plan_ByteCount>:$bindings);
  let assemblyFormat = [{
    $sym_name `implements` $implementation (`machine` `` $machine^)? (`bindings` $bindings^)?
    $constants attr-dict
  }];
  let hasVerifier = 1;
}

def Plan_PlanOp : Plan_Op<"plan", [Symbol, SymbolTable, NoTerminator, SingleBlock,
                                   NoRegionArguments]> {
  let summary = "a placement and the programs that execute it";
  let description = [{
    Holds one `plan.expert_table` per layer, then `plan.program`s of ascending `max_tokens`: those in
    host memory, for CPUs, before those in device memory, which dispatch kernels of a device. `miss`
    says what happens when a token is routed to an expert in host memory while the programs run on a
    device; it is absent where that cannot happen.

    Example:
    ```mlir
    plan.plan @default miss <cached, cache_slots = 1> {
      plan.expert_table 0 [#plan.expert<w1 = @a, w3 = @b, w2 = @c, residency = host>]
      plan.program @decode max_tokens 1 memory host {
      }
    }
    ```
  }];
  let arguments = (ins SymbolNameAttr:$sym_name, OptionalAttr<Plan_MissAttr>:$miss);
  let regions = (region SizedRegion<1>:$body);
  let assemblyFormat = "$sym_name (`miss` $miss^)? attr-dict-with-keyword $body";
  let hasRegionVerifier = 1;
}

def Plan_ExpertTableOp : Plan_Op<"expert_table", [
    HasParent<"PlanOp">, DeclareOpInterfaceMethods<SymbolUserOpInterface>]> {
  let summary = "where the experts of a layer are";
  let description = [{
    One row per expert of layer `layer`, in order: the segments of its linears, each in a format of its
    own, and the memory they are kept in. A plan has one table per layer, ascending.

    Example:
    ```mlir
    plan.expert_table 0 [#plan.expert<w1 = @"a@bf16", w3 = @"b@bf16", w2 = @"c@f32", residency = host>]
    ```
  }];
  let arguments = (ins ConfinedAttr<I64Attr, [IntNonNegative]>:$layer,
                       Plan_ExpertArrayAttr:$experts);
  let assemblyFormat = "$layer $experts attr-dict";
}

def Plan_ProgramOp : Plan_Op<"program", [Symbol, HasParent<"PlanOp">, NoTerminator, SingleBlock,
                                         NoRegionArguments]> {
  let summary = "a straight line of commands that advances a session by up to max_tokens tokens";
  let description = [{
    `memory` is the memory of the device that runs the dispatches; `arena_bytes` is there once
    `assign-arena` has given every `plan.alloc` its offset, `pinned_bytes` where some of them are
    pinned. `weight_bytes_per_token` counts the weights that one token alone reads, with as many experts
    as are routed to.

    Example:
    ```mlir
    plan.program @decode max_tokens 1 memory host arena_bytes 3392 {
      %x = plan.alloc 512 offset 0 : !plan.buffer<host>
    }
    ```
  }];
  let arguments = (ins SymbolNameAttr:$sym_name, Plan_ByteCount:$max_tokens,
                       Plan_MemoryAttr:$memory,
                       OptionalAttr<ConfinedAttr<I64Attr, [IntNonNegative]>>:$arena_bytes,
                       OptionalAttr<Plan_ByteCount>:$pinned_bytes,
                       OptionalAttr<ConfinedAttr<I64Attr, [IntNonNegative]>>:$weight_bytes_per_token);
  let regions = (region SizedRegion<1>:$body);
  let assemblyFormat = [{
    $sym_name `max_tokens` $max_tokens `memory` `` $memory (`arena_bytes` $arena_bytes^)?
    (`pinned_bytes` $pinned_bytes^)? (`weight_bytes_per_token` $weight_bytes_per_token^)?
    attr-dict-with-keyword $body
  }];
  let hasRegionVerifier = 1;
}

//===--- buffers ------------------------------------------------------------------------------===//

def Plan_AllocOp : Plan_Op<"alloc", [HasParent<"ProgramOp">]> {
  let summary = "scratch memory of the program";
  let description = [{
    `offset` is its place in the program's arena, of its memory, given by `assign-arena`.

    Example: `%x = plan.alloc 512 offset 64 : !plan.buffer<host>`
  }];
  let arguments = (ins Plan_ByteCount:$bytes,
                       OptionalAttr<ConfinedAttr<I64Attr, [IntNonNegative]>>:$offset);
  let results = (outs Plan_BufferType:$buffer);
  let assemblyFormat = "$bytes (`offset` $offset^)? attr-dict `:` type($buffer)";
}

def Plan_WeightOp : Plan_Op<"weight", [
    HasParent<"ProgramOp">, DeclareOpInterfaceMethods<SymbolUserOpInterface>]> {
  let summary = "a segment as an operand; read-only";
  let description = [{
    Example: `%w = plan.weight @"norm@f32" : !plan.buffer<host>`
  }];
  let arguments = (ins FlatSymbolRefAttr:$segment);
  let results = (outs Plan_BufferType:$buffer);
  let assemblyFormat = "$segment attr-dict `:` type($buffer)";
}

def Plan_ResourceOp : Plan_Op<"resource", [HasParent<"ProgramOp">]> {
  let summary = "something of the session or the plan as an operand";
  let description = [{
    `keys` and `values` are the KV cache of layer `index`, `experts` its expert table, `expert_slots`
    where a device fetches experts to; `tokens`,
    `logits` and a device's `candidates` are the program's input and outputs and state their size in
    bytes.

    Example: `%k = plan.resource keys 3 : !plan.buffer<host>`
    Example: `%t = plan.resource tokens 0 bytes 4 : !plan.buffer<host>`
  }];
  let arguments = (ins Plan_ResourceKindAttr:$kind,
                       ConfinedAttr<I64Attr, [IntNonNegative]>:$index,
                       DefaultValuedAttr<ConfinedAttr<I64Attr, [IntNonNegative]>, "0">:$bytes);
  let results = (outs Plan_BufferType:$buffer);
  let assemblyFormat = "`` $kind $index (`bytes` $bytes^)? attr-dict `:` type($buffer)";
}

//===--- commands -----------------------------------------------------------------------------===//

def Plan_DispatchOp : Plan_Op<"dispatch", [
    HasParent<"ProgramOp">, DeclareOpInterfaceMethods<SymbolUserOpInterface>]> {
  let summary = "runs a kernel over a grid of tiles";
  let description = [{
    The grid has `tiles` tiles, or `tiles` per live token. Operands are in the order of the kernel's
    pointer parameters. Dispatches that no barrier separates may run at the same time.

    In a program in device memory, dispatches of a CPU's kernels with nothing but barriers between them
    are a piece of work for the host: it starts when everything before it is finished, runs beside what
    follows, and is finished at the next `plan.join`.

    Example:
    ```mlir
    plan.dispatch @rms_norm_128 tiles 1 per_token (read %x, read %w, write %y)
      : !plan.buffer<host>, !plan.buffer<host>, !plan.buffer<host>
    ```
  }];
  let arguments = (ins FlatSymbolRefAttr:$kernel, Plan_ByteCount:$tiles, UnitAttr:$per_token,
                       Variadic<Plan_BufferType>:$operands_, Plan_AccessArrayAttr:$accesses);
  let assemblyFormat = [{
    $kernel `tiles` $tiles (`per_token` $per_token^)? ` ` `(` custom<Operands>($operands_, $accesses) `)` attr-dict `:` type($operands_)
  }];
  let hasVerifier = 1;
}

def Plan_CopyOp : Plan_Op<"copy", [HasParent<"ProgramOp">]> {
  let summary = "copies bytes from one buffer to another, across memories if need be";
  let description = [{
    Example: `plan.copy %a to %b bytes 512 : !plan.buffer<host> to !plan.buffer<device>`
  }];
  let arguments = (ins Plan_BufferType:$source, Plan_BufferType:$target, Plan_ByteCount:$bytes);
  let assemblyFormat = [{
    $source `to` $target `bytes` $bytes attr-dict `:` type($source) `to` type($target)
  }];
  let hasVerifier = 1;
}

def Plan_BarrierOp : Plan_Op<"barrier", [HasParent<"ProgramOp">]> {
  let summary = "everything before it is finished before anything behind it starts";
  let description = [{
    Work for the host, in a program in device memory, has barriers of its own; what runs beside it does
    not wait for it. Two barriers in a row are one, and a barrier that nothing follows or precedes is
    none: `canonicalize` removes what is too many.

    Example: `plan.barrier`
  }];
  let assemblyFormat = "attr-dict";
  let hasCanonicalizeMethod = 1;
}

def Plan_JoinOp : Plan_Op<"join", [HasParent<"ProgramOp">]> {
  let summary = "a barrier at which the work of the host is finished, too";
  let description = [{
    Only in programs in device memory.

    Example: `plan.join`
  }];
  let assemblyFormat = "attr-dict";
  let hasVerifier = 1;
}

#endif
