#ifndef MOEPLAN_DIALECTS_MOE_OPS_TD
#define MOEPLAN_DIALECTS_MOE_OPS_TD

include "MoeDialect.td"
include "mlir/Interfaces/InferTypeOpInterface.td"
include "mlir/Interfaces/SideEffectInterfaces.td"
include "mlir/IR/SymbolInterfaces.td"

class Moe_Op<string mnemonic, list<Trait> traits = []> : Op<Moe_Dialect, mnemonic, traits>;

/// An op that names weights; it checks their shapes where it names them.
class Moe_WeightUserOp<string mnemonic, list<Trait> traits = []>
    : Moe_Op<mnemonic, !listconcat(traits, [DeclareOpInterfaceMethods<SymbolUserOpInterface>])>;

// Activations have a row per token.
def Moe_Activation : 2DTensorOf<[F32]>;
def Moe_TokenIds : 1DTensorOf<[I32]>;
def Moe_ExpertIds : 2DTensorOf<[I32]>;

def Moe_WeightOp : Moe_Op<"weight", [Symbol]> {
  let summary = "a tensor of the checkpoint, named";
  let description = [{
    `source` is the tensor's name in the checkpoint, `file` the file (relative to the checkpoint) and
    `offset` the byte in it where the row-major data begins. A weight of a synthetic model, which no
    file holds, is in `"synthetic"` at 0.

    Example:
    ```mlir
    moe.weight @norm : tensor<128xbf16> source "model.norm.weight" in "model.safetensors" at 7216832
    ```
  }];
  let arguments = (ins SymbolNameAttr:$sym_name, TypeAttrOf<RankedTensorOf<[F32, F16, BF16]>>:$type,
                       StrAttr:$source, StrAttr:$file,
                       ConfinedAttr<I64Attr, [IntNonNegative]>:$offset);
  let assemblyFormat = [{
    $sym_name `:` $type `source` $source `in` $file `at` $offset attr-dict
  }];
  let hasVerifier = 1;
  let extraClassDeclaration = [{
    ::mlir::RankedTensorType getTensorType() {
      return ::llvm::cast<::mlir::RankedTensorType>(getType());
    }
  }];
}

def Moe_TierOp : Moe_Op<"tier", [Symbol]> {
  let summary = "a placement to make a plan of, as rules or expert by expert";
  let description = [{
    Of the rules that match an expert or one of its linears, the first that names a format gives the
    format and the first that names a residency gives the residency. Instead of rules, `placed` gives
    the placement of every expert, those of the first layer first. `non_experts` is the format of
    the matrices outside the experts, bf16 where it is absent; `miss` is there where a device is to
    cope with experts in host memory. `apply-placement` turns each tier into a placed copy of the
    model.

    Example:
    ```mlir
    moe.tier @quality [#moe.rule<pattern = "layers.0.experts.*.w2", format = "f32">,
                       #moe.rule<pattern = "*", format = "bf16", residency = "host">]
    moe.tier @fast placed [#moe.placement<w1 = "int4g32", w3 = "int4g32", w2 = "int4g32", residency = device>,
                           #moe.placement<w1 = "int3g32", w3 = "int3g32", w2 = "int4g32", residency = host>]
      miss <cached, cache_slots = 4>
    ```
  }];
  let arguments = (ins SymbolNameAttr:$sym_name, OptionalAttr<Moe_RuleArrayAttr>:$rules,
                       OptionalAttr<Moe_PlacementArrayAttr>:$placements,
                       OptionalAttr<StrAttr>:$non_expert_format, OptionalAttr<Moe_MissAttr>:$miss);
  let assemblyFormat = [{
    $sym_name ($rules^)? (`placed` $placements^)? (`non_experts` $non_expert_format^)?
    (`miss` $miss^)? attr-dict
  }];
  let hasVerifier = 1;
}

def Moe_EmbeddingOp : Moe_WeightUserOp<"embedding", [Pure]> {
  let summary = "looks up a row of the embedding table per token";
  let description = [{
    Example: `%x = moe.embedding %tokens, @embedding : tensor<?xi32> -> tensor<?x128xf32>`
  }];
  let arguments = (ins Moe_TokenIds:$tokens, FlatSymbolRefAttr:$table);
  let results = (outs Moe_Activation:$result);
  let assemblyFormat = "$tokens `,` $table attr-dict `:` type($tokens) `->` type($result)";
}

def Moe_RmsNormOp : Moe_WeightUserOp<"rms_norm", [Pure, SameOperandsAndResultType]> {
  let summary = "root mean square normalisation of each row";
  let description = [{
    y = x / sqrt(mean(x^2) + epsilon) * weight (Zhang and Sennrich, arXiv 1910.07467).

    Example: `%y = moe.rms_norm %x, @norm epsilon 1.0e-05 : tensor<?x128xf32>`
  }];
  let arguments = (ins Moe_Activation:$x, FlatSymbolRefAttr:$weight, F64Attr:$epsilon);
  let results = (outs Moe_Activation:$result);
  let assemblyFormat = "$x `,` $weight `epsilon` $epsilon attr-dict `:` type($x)";
}

def Moe_AttentionOp : Moe_WeightUserOp<"attention"> {
  let summary = "causal self-attention with rotary positions and a grouped-query KV cache";
  let description = [{
    Projects x with q, k and v, rotates q and k by their positions (Su et al., arXiv 2104.09864),
    appends k and v to cache `layer`, attends over the cache (over its last `sliding_window`
    positions where that is not 0) and projects with o. `num_heads` query heads share
    `num_kv_heads` key/value heads (Ainslie et al., arXiv 2305.13245). With `residual`, that is added.

    Example:
    ```mlir
    %y = moe.attention %x layer 0 q @q k @k v @v o @o heads 4 kv_heads 2 head_dim 32
           rope_theta 1.0e+06 sliding_window 0 residual(%r : tensor<?x128xf32>) : tensor<?x128xf32>
    ```
  }];
  let arguments = (ins Moe_Activation:$x, Optional<Moe_Activation>:$residual,
                       ConfinedAttr<I64Attr, [IntNonNegative]>:$layer, FlatSymbolRefAttr:$q,
                       FlatSymbolRefAttr:$k, FlatSymbolRefAttr:$v, FlatSymbolRefAttr:$o,
                       ConfinedAttr<I64Attr, [IntPositive]>:$num_heads,
                       ConfinedAttr<I64Attr, [IntPositive]>:$num_kv_heads,
                       ConfinedAttr<I64Attr, [IntPositive]>:$head_dim, F64Attr:$rope_theta,
                       ConfinedAttr<I64Attr, [IntNonNegative]>:$sliding_window);
  let results = (outs Moe_Activation:$result);
  let assemblyFormat = [{
    $x `layer` $layer `q` $q `k` $k `v` $v `o` $o `heads` $num_heads `kv_heads` $num_kv_heads
    `head_dim` $head_dim `rope_theta` $rope_theta `sliding_window` $sliding_window
    (`residual` `(` $residual^ `:` type($residual) `)`)? attr-dict `:` type($x)
    `` custom<SameType>(ref(type($x)), type($result))
  }];
  let hasVerifier = 1;
}

def Moe_RouterOp : Moe_WeightUserOp<"router", [Pure]> {
  let summary = "picks the top_k experts of each token and weighs them";
  let description = [{
    The gate scores every expert; the weights are the softmax over the `top_k` largest scores, which
    is the softmax over all experts renormalised to the chosen ones (Jiang et al., arXiv 2401.04088).

    Example:
    ```mlir
    %ids, %weights = moe.router %x, @gate : tensor<?x128xf32> -> tensor<?x2xi32>, tensor<?x2xf32>
    ```
  }];
  let arguments = (ins Moe_Activation:$x, FlatSymbolRefAttr:$gate);
  let results = (outs Moe_ExpertIds:$ids, Moe_Activation:$weights);
  let assemblyFormat = [{
    $x `,` $gate attr-dict `:` type($x) `->` type($ids) `,` type($weights)
  }];
}

def Moe_ExpertsOp : Moe_WeightUserOp<"experts", [Pure]> {
  let summary = "the routed experts of a layer";
  let description = [{
    y = sum over the chosen experts e of weight_e * w2_e (silu(w1_e x) * w3_e x) (Shazeer, arXiv
    2002.05202), plus `residual` where there is one. Each expert carries a placement once
    `apply-placement` has run.

    Example:
    ```mlir
    %y = moe.experts %x, %ids, %weights layer 0
           [#moe.expert<w1 = @e0.w1, w3 = @e0.w3, w2 = @e0.w2>]
           : tensor<?x128xf32>, tensor<?x2xi32>, tensor<?x2xf32>
    ```
  }];
  let arguments = (ins Moe_Activation:$x, Moe_ExpertIds:$ids, Moe_Activation:$weights,
                       Optional<Moe_Activation>:$residual,
                       ConfinedAttr<I64Attr, [IntNonNegative]>:$layer,
                       Moe_ExpertArrayAttr:$experts);
  let results = (outs Moe_Activation:$result);
  let assemblyFormat = [{
    $x `,` $ids `,` $weights `layer` $layer $experts
    (`residual` `(` $residual^ `:` type($residual) `)`)? attr-dict
    `:` type($x) `,` type($ids) `,` type($weights)
    `` custom<SameType>(ref(type($x)), type($result))
  }];
  let hasVerifier = 1;
}

def Moe_AddOp : Moe_Op<"add", [Pure, Commutative, SameOperandsAndResultType]> {
  let summary = "elementwise sum: the residual connection";
  let description = [{
    Example: `%z = moe.add %x, %y : tensor<?x128xf32>`
  }];
  let arguments = (ins Moe_Activation:$x, Moe_Activation:$y);
  let results = (outs Moe_Activation:$result);
  let assemblyFormat = "$x `,` $y attr-dict `:` type($x)";
}

def Moe_LogitsOp : Moe_WeightUserOp<"logits", [Pure]> {
  let summary = "projects onto the vocabulary";
  let description = [{
    Example: `%l = moe.logits %x, @output : tensor<?x128xf32> -> tensor<?x2048xf32>`
  }];
  let arguments = (ins Moe_Activation:$x, FlatSymbolRefAttr:$weight);
  let results = (outs Moe_Activation:$result);
  let assemblyFormat = "$x `,` $weight attr-dict `:` type($x) `->` type($result)";
}

#endif
