#ifndef MOEPLAN_DIALECTS_MOE_DIALECT_TD
#define MOEPLAN_DIALECTS_MOE_DIALECT_TD

include "mlir/IR/AttrTypeBase.td"
include "mlir/IR/EnumAttr.td"
include "mlir/IR/OpBase.td"

def Moe_Dialect : Dialect {
  let name = "moe";
  let cppNamespace = "::moeplan::moe";
  let summary = "a Mixture-of-Experts transformer as tensors, weights, routing and experts";
  let description = [{
    The model, with no machine in it. Activations are tensors with one row per token, so their first
    dimension is dynamic; weights are symbols that name a byte range of the checkpoint, and no weight
    byte ever enters the IR. The KV cache is implicit: `moe.attention` of layer L appends to and
    reads cache L.
  }];
  let useDefaultAttributePrinterParser = 1;
}

class Moe_Attr<string name, string attrMnemonic> : AttrDef<Moe_Dialect, name> {
  let mnemonic = attrMnemonic;
}

def Moe_Residency : I32EnumAttr<"Residency", "where an expert's weights live", [
    I32EnumAttrCase<"Host", 0, "host">, I32EnumAttrCase<"Device", 1, "device">]> {
  let cppNamespace = "::moeplan::moe";
  let genSpecializedAttr = 0;
}

def Moe_MissStrategy : I32EnumAttr<
    "MissStrategy", "what happens when a token is routed to an expert in host memory", [
    I32EnumAttrCase<"None", 0, "none">, I32EnumAttrCase<"Stream", 1, "stream">,
    I32EnumAttrCase<"InPlace", 2, "in_place">, I32EnumAttrCase<"HostCompute", 3, "host_compute">,
    I32EnumAttrCase<"Cached", 4, "cached">]> {
  let cppNamespace = "::moeplan::moe";
  let genSpecializedAttr = 0;
}

def Moe_MissAttr : Moe_Attr<"Miss", "miss"> {
  let summary = "what a plan does with a token that is routed to an expert in host memory";
  let description = [{
    While the rest of the model runs on a device. `stream` copies the expert's weights into a swap
    buffer there, `cached` keeps the copy in one of the layer's `cache_slots` until others need it,
    `in_place` lets the device read them where they are, `host_compute` lets the CPU compute them.

    Example: `#moe.miss<cached, cache_slots = 4>`
  }];
  let parameters = (ins EnumParameter<Moe_MissStrategy>:$strategy,
                        DefaultValuedParameter<"int64_t", "0">:$cache_slots);
  let assemblyFormat = "`<` $strategy (`,` `cache_slots` `=` $cache_slots^)? `>`";
  let genVerifyDecl = 1;
}

def Moe_ConfigAttr : Moe_Attr<"Config", "config"> {
  let summary = "the configuration of a Mixtral checkpoint";
  let description = [{
    The fields of `config.json` that matter to execution. `sliding_window` is 0 where there is none,
    `bos_token_id` is -1 where there is none.
  }];
  let parameters = (ins
    "int64_t":$vocab_size, "int64_t":$hidden_size, "int64_t":$intermediate_size,
    "int64_t":$num_layers, "int64_t":$num_attention_heads, "int64_t":$num_key_value_heads,
    "int64_t":$head_dim, "int64_t":$num_experts, "int64_t":$num_experts_per_tok,
    "::mlir::FloatAttr":$rms_norm_eps, "::mlir::FloatAttr":$rope_theta,
    "int64_t":$sliding_window, "int64_t":$max_position_embeddings,
    "bool":$tie_word_embeddings, "int64_t":$bos_token_id,
    "::mlir::DenseI64ArrayAttr":$eos_token_ids);
  let assemblyFormat = "`<` struct(params) `>`";
}

def Moe_PlacementAttr : Moe_Attr<"Placement", "placement"> {
  let summary = "the format of each linear of an expert, and where the expert lives";
  let description = [{
    Formats are names of the format table (`schemas/formats.h`).

    Example: `#moe.placement<w1 = "bf16", w3 = "bf16", w2 = "f32", residency = host>`
  }];
  let parameters = (ins "::mlir::StringAttr":$w1, "::mlir::StringAttr":$w3,
                        "::mlir::StringAttr":$w2,
                        EnumParameter<Moe_Residency>:$residency);
  let assemblyFormat = "`<` struct(params) `>`";
  let genVerifyDecl = 1;
}

def Moe_PlacementArrayAttr : TypedArrayAttrBase<Moe_PlacementAttr, "array of placements">;

def Moe_ExpertAttr : Moe_Attr<"Expert", "expert"> {
  let summary = "one expert: the symbols of its three linears, and its placement once it has one";
  let parameters = (ins "::mlir::FlatSymbolRefAttr":$w1, "::mlir::FlatSymbolRefAttr":$w3,
                        "::mlir::FlatSymbolRefAttr":$w2,
                        OptionalParameter<"::moeplan::moe::PlacementAttr">:$placement);
  let assemblyFormat = "`<` struct(params) `>`";
}

def Moe_ExpertArrayAttr : TypedArrayAttrBase<Moe_ExpertAttr, "array of experts">;

def Moe_RuleAttr : Moe_Attr<"Rule", "rule"> {
  let summary = "a placement for every expert, or linear of an expert, whose name matches a pattern";
  let description = [{
    The pattern is a glob over names such as `layers.3.experts.5` or `layers.3.experts.5.w2`. A field
    that is absent is left to later rules.

    Example: `#moe.rule<pattern = "layers.0.*", format = "bf16", residency = "host">`
  }];
  let parameters = (ins "::mlir::StringAttr":$pattern,
                        OptionalParameter<"::mlir::StringAttr">:$format,
                        OptionalParameter<"::mlir::StringAttr">:$residency);
  let assemblyFormat = "`<` struct(params) `>`";
  let genVerifyDecl = 1;
}

def Moe_RuleArrayAttr : TypedArrayAttrBase<Moe_RuleAttr, "array of placement rules">;

#endif
