// Every op and attribute of the dialect, as it is written; what is printed can be read again.
// RUN: moeplan-opt %s | moeplan-opt | FileCheck %s
// RUN: moeplan-opt %s --mlir-print-op-generic | moeplan-opt | FileCheck %s

// A model of one layer: vocabulary 32, hidden size 16, 2 heads that share 1 key/value head of 8, and
// 2 experts of width 24, of which 1 runs per token.

// CHECK: module attributes {moe.config = #moe.config<vocab_size = 32, hidden_size = 16,
// CHECK-SAME: rms_norm_eps = 1.000000e-05 : f64, rope_theta = 1.000000e+06 : f64, sliding_window = 0,
// CHECK-SAME: eos_token_ids = [2, 3]>}
module attributes {moe.config = #moe.config<
    vocab_size = 32, hidden_size = 16, intermediate_size = 24, num_layers = 1,
    num_attention_heads = 2, num_key_value_heads = 1, head_dim = 8, num_experts = 2,
    num_experts_per_tok = 1, rms_norm_eps = 1.0e-05 : f64, rope_theta = 1.0e+06 : f64,
    sliding_window = 0, max_position_embeddings = 64, tie_word_embeddings = false,
    bos_token_id = 1, eos_token_ids = [2, 3]>} {

// CHECK: moe.weight @embedding : tensor<32x16xbf16> source "model.embed_tokens.weight" in "model.safetensors" at 0
moe.weight @embedding : tensor<32x16xbf16> source "model.embed_tokens.weight" in "model.safetensors" at 0
// CHECK: moe.weight @norm : tensor<16xf32> source "model.norm.weight" in "model.safetensors" at 1024
moe.weight @norm : tensor<16xf32> source "model.norm.weight" in "model.safetensors" at 1024
moe.weight @q : tensor<16x16xf16> source "q" in "model-00001-of-00002.safetensors" at 64
moe.weight @k : tensor<8x16xf16> source "k" in "model-00001-of-00002.safetensors" at 576
moe.weight @v : tensor<8x16xf16> source "v" in "model-00001-of-00002.safetensors" at 832
moe.weight @o : tensor<16x16xf16> source "o" in "model-00002-of-00002.safetensors" at 64
moe.weight @gate : tensor<2x16xbf16> source "gate" in "model-00002-of-00002.safetensors" at 576
moe.weight @up : tensor<24x16xbf16> source "up" in "model-00002-of-00002.safetensors" at 640
moe.weight @down : tensor<16x24xbf16> source "down" in "model-00002-of-00002.safetensors" at 1408
moe.weight @output : tensor<32x16xbf16> source "lm_head.weight" in "model-00002-of-00002.safetensors" at 2176

// A rule may leave a field to later rules.
// CHECK: moe.tier @small [#moe.rule<pattern = "*", format = "int4g64", residency = "host">] non_experts "int8g64"
moe.tier @small [#moe.rule<pattern = "*", format = "int4g64", residency = "host">] non_experts "int8g64"

// CHECK: moe.tier @quality [#moe.rule<pattern = "layers.0.experts.*.w2", format = "f32">, #moe.rule<pattern = "*", format = "bf16", residency = "host">]
moe.tier @quality [#moe.rule<pattern = "layers.0.experts.*.w2", format = "f32">,
                   #moe.rule<pattern = "*", format = "bf16", residency = "host">]

// A planned tier has a placement per expert, and may say what a device does about experts in host memory.
// CHECK: moe.tier @fast placed [#moe.placement<w1 = "int4g32", w3 = "int4g32", w2 = "int8g32", residency = device>, #moe.placement<w1 = "int3g32", w3 = "int3g32", w2 = "int4g32", residency = host>] non_experts "int8g32" miss <cached, cache_slots = 4>
moe.tier @fast placed [
  #moe.placement<w1 = "int4g32", w3 = "int4g32", w2 = "int8g32", residency = device>,
  #moe.placement<w1 = "int3g32", w3 = "int3g32", w2 = "int4g32", residency = host>]
  non_experts "int8g32" miss <cached, cache_slots = 4>

// CHECK: moe.tier @in_place [#moe.rule<pattern = "*", format = "bf16", residency = "host">] miss <in_place>
moe.tier @in_place [#moe.rule<pattern = "*", format = "bf16", residency = "host">] miss <in_place>

// CHECK-LABEL: func.func @embedding_lookup(
// CHECK-SAME:    %[[TOKENS:.*]]: tensor<?xi32>)
func.func @embedding_lookup(%tokens: tensor<?xi32>) -> tensor<?x16xf32> {
  // CHECK: moe.embedding %[[TOKENS]], @embedding : tensor<?xi32> -> tensor<?x16xf32>
  %x = moe.embedding %tokens, @embedding : tensor<?xi32> -> tensor<?x16xf32>
  return %x : tensor<?x16xf32>
}

// CHECK-LABEL: func.func @rms_norm(
// CHECK-SAME:    %[[X:.*]]: tensor<?x16xf32>)
func.func @rms_norm(%x: tensor<?x16xf32>) -> tensor<?x16xf32> {
  // CHECK: moe.rms_norm %[[X]], @norm epsilon 1.000000e-05 : tensor<?x16xf32>
  %y = moe.rms_norm %x, @norm epsilon 1.0e-05 : tensor<?x16xf32>
  return %y : tensor<?x16xf32>
}

// CHECK-LABEL: func.func @attention(
// CHECK-SAME:    %[[X:.*]]: tensor<?x16xf32>, %[[R:.*]]: tensor<?x16xf32>)
func.func @attention(%x: tensor<?x16xf32>, %r: tensor<?x16xf32>) -> tensor<?x16xf32> {
  // CHECK: %[[A:.*]] = moe.attention %[[X]] layer 0 q @q k @k v @v o @o heads 2 kv_heads 1 head_dim 8 rope_theta 1.000000e+06 sliding_window 0 : tensor<?x16xf32>{{$}}
  %a = moe.attention %x layer 0 q @q k @k v @v o @o heads 2 kv_heads 1 head_dim 8
         rope_theta 1.0e+06 sliding_window 0 : tensor<?x16xf32>
  // CHECK: moe.attention %[[A]] layer 0 {{.*}} sliding_window 4096 residual(%[[R]] : tensor<?x16xf32>) : tensor<?x16xf32>{{$}}
  %b = moe.attention %a layer 0 q @q k @k v @v o @o heads 2 kv_heads 1 head_dim 8
         rope_theta 1.0e+06 sliding_window 4096 residual(%r : tensor<?x16xf32>) : tensor<?x16xf32>
  return %b : tensor<?x16xf32>
}

// CHECK-LABEL: func.func @router(
// CHECK-SAME:    %[[X:.*]]: tensor<?x16xf32>)
func.func @router(%x: tensor<?x16xf32>) -> tensor<?x1xi32> {
  // CHECK: %{{.*}}, %{{.*}} = moe.router %[[X]], @gate : tensor<?x16xf32> -> tensor<?x1xi32>, tensor<?x1xf32>
  %ids, %weights = moe.router %x, @gate : tensor<?x16xf32> -> tensor<?x1xi32>, tensor<?x1xf32>
  return %ids : tensor<?x1xi32>
}

// Before `apply-placement` an expert is three weights.
// CHECK-LABEL: func.func @experts(
// CHECK-SAME:    %[[X:.*]]: tensor<?x16xf32>, %[[IDS:.*]]: tensor<?x1xi32>, %[[WEIGHTS:.*]]: tensor<?x1xf32>)
func.func @experts(%x: tensor<?x16xf32>, %ids: tensor<?x1xi32>, %weights: tensor<?x1xf32>)
    -> tensor<?x16xf32> {
  // CHECK: moe.experts %[[X]], %[[IDS]], %[[WEIGHTS]] layer 0
  // CHECK-SAME: [#moe.expert<w1 = @up, w3 = @up, w2 = @down>, #moe.expert<w1 = @up, w3 = @up, w2 = @down>]
  // CHECK-SAME: : tensor<?x16xf32>, tensor<?x1xi32>, tensor<?x1xf32>{{$}}
  %y = moe.experts %x, %ids, %weights layer 0
         [#moe.expert<w1 = @up, w3 = @up, w2 = @down>, #moe.expert<w1 = @up, w3 = @up, w2 = @down>]
         : tensor<?x16xf32>, tensor<?x1xi32>, tensor<?x1xf32>
  return %y : tensor<?x16xf32>
}

// Behind it, it also has a placement: a format for each linear, and a residency.
// CHECK-LABEL: func.func @placed_experts(
// CHECK-SAME:    %[[X:.*]]: tensor<?x16xf32>, %[[IDS:.*]]: tensor<?x1xi32>, %[[WEIGHTS:.*]]: tensor<?x1xf32>)
func.func @placed_experts(%x: tensor<?x16xf32>, %ids: tensor<?x1xi32>, %weights: tensor<?x1xf32>)
    -> tensor<?x16xf32> {
  // CHECK: moe.experts
  // CHECK-SAME: placement = <w1 = "bf16", w3 = "bf16", w2 = "f32", residency = host>>
  // CHECK-SAME: placement = <w1 = "bf16", w3 = "bf16", w2 = "bf16", residency = device>>]
  // CHECK-SAME: residual(%[[X]] : tensor<?x16xf32>)
  %y = moe.experts %x, %ids, %weights layer 0
         [#moe.expert<w1 = @up, w3 = @up, w2 = @down,
            placement = #moe.placement<w1 = "bf16", w3 = "bf16", w2 = "f32", residency = host>>,
          #moe.expert<w1 = @up, w3 = @up, w2 = @down,
            placement = #moe.placement<w1 = "bf16", w3 = "bf16", w2 = "bf16", residency = device>>]
         residual(%x : tensor<?x16xf32>) : tensor<?x16xf32>, tensor<?x1xi32>, tensor<?x1xf32>
  return %y : tensor<?x16xf32>
}

// CHECK-LABEL: func.func @add(
// CHECK-SAME:    %[[X:.*]]: tensor<?x16xf32>, %[[Y:.*]]: tensor<?x16xf32>)
func.func @add(%x: tensor<?x16xf32>, %y: tensor<?x16xf32>) -> tensor<?x16xf32> {
  // CHECK: moe.add %[[X]], %[[Y]] : tensor<?x16xf32>
  %z = moe.add %x, %y : tensor<?x16xf32>
  return %z : tensor<?x16xf32>
}

// CHECK-LABEL: func.func @logits(
// CHECK-SAME:    %[[X:.*]]: tensor<?x16xf32>)
func.func @logits(%x: tensor<?x16xf32>) -> tensor<?x32xf32> {
  // CHECK: moe.logits %[[X]], @output : tensor<?x16xf32> -> tensor<?x32xf32>
  %l = moe.logits %x, @output : tensor<?x16xf32> -> tensor<?x32xf32>
  return %l : tensor<?x32xf32>
}
}
