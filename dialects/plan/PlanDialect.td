#ifndef MOEPLAN_DIALECTS_PLAN_DIALECT_TD
#define MOEPLAN_DIALECTS_PLAN_DIALECT_TD

include "mlir/IR/AttrTypeBase.td"
include "mlir/IR/EnumAttr.td"
include "mlir/IR/OpBase.td"

def Plan_Dialect : Dialect {
  let name = "plan";
  let cppNamespace = "::moeplan::plan";
  let summary = "what a machine executes: buffers, dispatches, copies, barriers, expert tables";
  let description = [{
    One to one with the artifact's schema (`schemas/moeplan.fbs`): every op here becomes one table,
    struct or binding there, and nothing here knows what a transformer is.
  }];
  let useDefaultAttributePrinterParser = 1;
  let useDefaultTypePrinterParser = 1;
}

class Plan_Attr<string name, string attrMnemonic> : AttrDef<Plan_Dialect, name> {
  let mnemonic = attrMnemonic;
}

class Plan_Enum<string name, string summary, list<I32EnumAttrCase> cases>
    : I32EnumAttr<name, summary, cases> {
  let cppNamespace = "::moeplan::plan";
  let genSpecializedAttr = 0;
}

// The numbers are those of the enums of the same name in moeplan.fbs; of a memory, those of Residency.
def Plan_Memory : Plan_Enum<"Memory", "a memory", [
    I32EnumAttrCase<"Host", 0, "host">, I32EnumAttrCase<"Device", 1, "device">,
    I32EnumAttrCase<"Pinned", 2, "pinned">]>;
def Plan_MemoryAttr : EnumAttr<Plan_Dialect, Plan_Memory, "memory">;

def Plan_Machine : Plan_Enum<"Machine", "what executes a kernel", [
    I32EnumAttrCase<"Cpu", 0, "cpu">, I32EnumAttrCase<"Cuda", 1, "cuda">]>;
def Plan_MachineAttr : EnumAttr<Plan_Dialect, Plan_Machine, "machine">;

def Plan_Access : Plan_Enum<"Access", "what a dispatch does with an operand", [
    I32EnumAttrCase<"Read", 0, "read">, I32EnumAttrCase<"Write", 1, "write">,
    I32EnumAttrCase<"ReadWrite", 2, "read_write">]>;
def Plan_AccessAttr : EnumAttr<Plan_Dialect, Plan_Access, "access">;
def Plan_AccessArrayAttr : TypedArrayAttrBase<Plan_AccessAttr, "array of accesses">;

def Plan_ResourceKind : Plan_Enum<"ResourceKind", "a buffer that outlives a program's run", [
    I32EnumAttrCase<"Keys", 2, "keys">, I32EnumAttrCase<"Values", 3, "values">,
    I32EnumAttrCase<"Experts", 4, "experts">, I32EnumAttrCase<"Tokens", 5, "tokens">,
    I32EnumAttrCase<"Logits", 6, "logits">,
    I32EnumAttrCase<"Candidates", 7, "candidates">,
    I32EnumAttrCase<"ExpertSlots", 8, "expert_slots">]>;
def Plan_ResourceKindAttr : EnumAttr<Plan_Dialect, Plan_ResourceKind, "resource">;

def Plan_MissStrategy : Plan_Enum<
    "MissStrategy", "what happens when a token is routed to an expert in host memory", [
    I32EnumAttrCase<"None", 0, "none">, I32EnumAttrCase<"Stream", 1, "stream">,
    I32EnumAttrCase<"InPlace", 2, "in_place">, I32EnumAttrCase<"HostCompute", 3, "host_compute">,
    I32EnumAttrCase<"Cached", 4, "cached">]>;

def Plan_MissAttr : Plan_Attr<"Miss", "miss"> {
  let summary = "the strategy of a plan for experts in host memory, and the cache slots per layer";
  let description = [{
    Example: `#plan.miss<cached, cache_slots = 4>`
  }];
  let parameters = (ins EnumParameter<Plan_MissStrategy>:$strategy,
                        DefaultValuedParameter<"int64_t", "0">:$cache_slots);
  let assemblyFormat = "`<` $strategy (`,` `cache_slots` `=` $cache_slots^)? `>`";
  let genVerifyDecl = 1;
}

def Plan_BufferType : TypeDef<Plan_Dialect, "Buffer"> {
  let mnemonic = "buffer";
  let summary = "bytes in one memory";
  let description = [{
    `pinned` is memory of the host that a device reaches, too: what both machines of a program in device
    memory work on.
  }];
  let parameters = (ins EnumParameter<Plan_Memory>:$memory);
  let assemblyFormat = "`<` $memory `>`";
}

def Plan_ModelAttr : Plan_Attr<"Model", "model"> {
  let summary = "what a session must know of the model: the table `Model` of the schema";
  let parameters = (ins
    "int64_t":$vocab_size, "int64_t":$hidden_size, "int64_t":$intermediate_size,
    "int64_t":$num_layers, "int64_t":$num_attention_heads, "int64_t":$num_key_value_heads,
    "int64_t":$head_dim, "int64_t":$num_experts, "int64_t":$num_experts_per_tok,
    "::mlir::FloatAttr":$rms_norm_eps, "::mlir::FloatAttr":$rope_theta,
    "int64_t":$sliding_window, "int64_t":$max_position_embeddings,
    "bool":$tie_word_embeddings, "int64_t":$bos_token_id,
    "::mlir::DenseI64ArrayAttr":$eos_token_ids, "::mlir::StringAttr":$kv_cache_format);
  let assemblyFormat = "`<` struct(params) `>`";
}

def Plan_ExpertAttr : Plan_Attr<"Expert", "expert"> {
  let summary = "a row of an expert table: the segments of an expert's linears and their residency";
  let parameters = (ins "::mlir::FlatSymbolRefAttr":$w1, "::mlir::FlatSymbolRefAttr":$w3,
                        "::mlir::FlatSymbolRefAttr":$w2, EnumParameter<Plan_Memory>:$residency);
  let assemblyFormat = "`<` struct(params) `>`";
}
def Plan_ExpertArrayAttr : TypedArrayAttrBase<Plan_ExpertAttr, "array of expert table rows">;

#endif
