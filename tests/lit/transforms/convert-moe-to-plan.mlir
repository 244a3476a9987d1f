// A placed function becomes a plan: an expert table per layer and a program per bucket of tokens, with
// one kernel per distinct (implementation, constants) and one segment per distinct (weight, format).
// RUN: moeplan-opt %s --convert-moe-to-plan=prefill-tokens=4 | FileCheck %s
// RUN: moeplan-opt %s --convert-moe-to-plan | FileCheck %s --check-prefix=BUCKETS
// With also-formats the expert kernels read these besides: bit 6 (int4g32) and bit 13 (int2g64) make
// 8256 of the sets {bf16} = 4 and {f32, bf16} = 6. Activations then also have the form that packed
// formats are multiplied with, Q8 = 4, beside BF16 = 2 and F32 = 1.
// RUN: moeplan-opt %s --convert-moe-to-plan=also-formats=int4g32,int2g64 | FileCheck %s --check-prefix=ALSO
// ALSO-DAG: plan.kernel @router_{{.*}} implements "router" {{.*}}, forms = 6 : i64
// ALSO-DAG: plan.kernel @experts_gate_up_{{.*}} implements "experts_gate_up" {{.*}}formats = 8260 : i64, h_forms = 7 : i64{{.*}}x_forms = 6 : i64
// ALSO-DAG: plan.kernel @experts_down_{{.*}} implements "experts_down" {{.*}}formats = 8262 : i64, h_forms = 7 : i64

// RUN: moeplan-opt %s --convert-moe-to-plan=kv-format=int8 | FileCheck %s --check-prefix=KV
// What depends on the machine is told apart, by the width of the weights' codes; below, the last two
// numbers of a symbol.
// RUN: moeplan-opt %s --convert-moe-to-plan=tuning="bf16.prefetch=512,bf16.unroll=4" | FileCheck %s --check-prefix=TUNED

// The configuration becomes what a session must know; what belongs to the compiler is gone.
// CHECK: module attributes {plan.model = #plan.model<vocab_size = 32, {{.*}} kv_cache_format = "bf16">}
// CHECK-NOT: moe.
// KV: module attributes {plan.model = #plan.model<{{.*}} kv_cache_format = "int8">}
// KV-DAG: plan.kernel @vector_attention_{{.*}} {head_dim = 8 : i64, kv_format = 3 : i64,
// KV-DAG: plan.kernel @rope_append_{{.*}} {head_dim = 8 : i64, kv_format = 3 : i64,
// KV-DAG: plan.kernel @attention_{{.*}} {head_dim = 8 : i64, kv_format = 3 : i64,
// TUNED-DAG: plan.kernel @linear_{{.*}}, prefetch = 512 : i64, rows_per_tile = 16 : i64, unroll = 4 : i64, weight_format = 2 : i64
// TUNED-DAG: plan.kernel @linear_{{.*}}, unroll = {{[0-9]+}} : i64, weight_format = 4 : i64
// TUNED-DAG: plan.kernel @experts_gate_up_{{.*}}formats = 4 : i64{{.*}}, prefetch = 512 : i64, {{.*}}unroll = 4 : i64
module attributes {moe.config = #moe.config<
    vocab_size = 32, hidden_size = 16, intermediate_size = 24, num_layers = 1,
    num_attention_heads = 2, num_key_value_heads = 1, head_dim = 8, num_experts = 2,
    num_experts_per_tok = 1, rms_norm_eps = 1.0e-05 : f64, rope_theta = 1.0e+06 : f64,
    sliding_window = 0, max_position_embeddings = 64, tie_word_embeddings = false,
    bos_token_id = 1, eos_token_ids = [2]>} {

moe.weight @embedding : tensor<32x16xbf16> source "model.embed_tokens.weight" in "model.safetensors" at 0
moe.weight @norm : tensor<16xbf16> source "model.norm.weight" in "model.safetensors" at 1024
moe.weight @q : tensor<16x16xbf16> source "q" in "model.safetensors" at 1056
moe.weight @kv : tensor<8x16xbf16> source "kv" in "model.safetensors" at 1568
moe.weight @gate : tensor<2x16xbf16> source "gate" in "model.safetensors" at 1824
moe.weight @up : tensor<24x16xbf16> source "up" in "model.safetensors" at 1888
moe.weight @down : tensor<16x24xbf16> source "down" in "model.safetensors" at 2656

// Four programs where nothing else is asked for.
// BUCKETS-LABEL: plan.plan @embedding_and_logits
// BUCKETS: plan.program @decode max_tokens 1 memory host
// BUCKETS: plan.program @prefill_8 max_tokens 8 memory host
// BUCKETS: plan.program @prefill_64 max_tokens 64 memory host
// BUCKETS: plan.program @prefill_512 max_tokens 512 memory host

// A program is given tokens and gives logits. Weights read per token: a row of the embedding (32
// bytes), the norm in float32 (64) and the whole output projection (1024). A kernel for one token
// normalises what it reads.
// CHECK-LABEL: plan.plan @embedding_and_logits {
// CHECK-NEXT: plan.program @decode max_tokens 1 memory host weight_bytes_per_token 1120 {
// CHECK-NEXT:   %[[TOKENS:.*]] = plan.resource tokens 0 bytes 4 : <host>
// CHECK-NEXT:   %[[X:.*]] = plan.alloc 64 : <host>
// CHECK-NEXT:   %[[TABLE:.*]] = plan.weight @"embedding@bf16" : <host>
// CHECK-NEXT:   plan.dispatch @embedding_16_32_2 tiles 1 per_token (read %[[TOKENS]], read %[[TABLE]], write %[[X]])
// CHECK-NEXT:   %[[NORM:.*]] = plan.weight @"norm@f32" : <host>
// CHECK-NEXT:   %[[LOGITS:.*]] = plan.resource logits 0 bytes 128 : <host>
// CHECK-NEXT:   %[[W:.*]] = plan.weight @"embedding@bf16" : <host>
// CHECK-NEXT:   plan.dispatch @vector_linear_16_32_1_2_16_0_1_{{[0-9]+_[0-9]+}} tiles 2 (read %[[X]], read %[[NORM]], read %[[W]], write %[[LOGITS]])
// CHECK-NEXT: }
// Four tokens: four times the activations, the same weights. The norm makes operands: rows of bf16,
// of 64 bytes.
// CHECK-NEXT: plan.program @prefill_4 max_tokens 4 memory host weight_bytes_per_token 1120 {
// CHECK-NEXT:   plan.resource tokens 0 bytes 16 : <host>
// CHECK-NEXT:   %[[X:.*]] = plan.alloc 256 : <host>
// CHECK:        %[[NORM:.*]] = plan.weight @"norm@f32" : <host>
// CHECK-NEXT:   %[[LOGITS:.*]] = plan.resource logits 0 bytes 512 : <host>
// CHECK-NEXT:   %[[Y:.*]] = plan.alloc 256 : <host>
// CHECK-NEXT:   plan.dispatch @operand_16_1_2_1 tiles 1 per_token (read %[[X]], read %[[NORM]], write %[[Y]])
// CHECK-NEXT:   %[[W:.*]] = plan.weight @"embedding@bf16" : <host>
// CHECK-NEXT:   plan.dispatch @linear_16_32_2_2_16_0_1_{{[0-9]+_[0-9]+}} tiles 2 (read %[[Y]], read %[[W]], write %[[LOGITS]])
func.func private @embedding_and_logits(%tokens: tensor<?xi32>) -> tensor<?x32xf32>
    attributes {moe.tier = "embedding_and_logits"} {
  %x = moe.embedding %tokens, @embedding : tensor<?xi32> -> tensor<?x16xf32>
  %y = moe.rms_norm %x, @norm epsilon 1.0e-05 : tensor<?x16xf32>
  %logits = moe.logits %y, @embedding : tensor<?x16xf32> -> tensor<?x32xf32>
  return %logits : tensor<?x32xf32>
}

// The residual is not used behind the attention, so that its buffer takes the sum in place. For one
// token there are three dispatches; attention fills the cache.
// CHECK-LABEL: plan.plan @attention_in_place {
// CHECK-NEXT: plan.program @decode
// CHECK:        plan.dispatch @embedding_16_32_2 {{.*}} write %[[X:[0-9]+]])
// CHECK:        plan.dispatch @rope_table_8 tiles 1 per_token (write %[[ROPE:[0-9]+]])
// CHECK:        %[[KEYS:.*]] = plan.resource keys 0 : <host>
// CHECK:        %[[VALUES:.*]] = plan.resource values 0 : <host>
// CHECK-NOT:    plan.copy
// CHECK:        plan.dispatch @vector_qkv_16_16_8_0_2_16_{{[0-9]+_[0-9]+}} tiles 3 (read %[[X]], read %[[X]], read %{{.*}}, read %{{.*}}, read %{{.*}}, write %[[Q:[0-9]+]], write %[[K:[0-9]+]], write %[[V:[0-9]+]])
// CHECK-NEXT:   plan.dispatch @vector_attention_2_1_8_2_4096_1 tiles 1 (read %[[Q]], read %[[K]], read %[[V]], read %[[ROPE]], read_write %[[KEYS]], read_write %[[VALUES]], write %[[ATTENDED:[0-9]+]])
// CHECK-NEXT:   plan.weight @"q@bf16"
// CHECK-NEXT:   plan.dispatch @vector_linear_16_16_0_2_16_1_1_{{[0-9]+_[0-9]+}} tiles 1 (read %[[ATTENDED]], read %[[ATTENDED]], read %{{.*}}, read_write %[[X]])
// CHECK-NEXT: }
// For many, operands are made once for the three projections, and a tile of attention is up to 32
// tokens of two heads. Keys and values are needed of every token, queries and what follows only where
// logits are wanted.
// CHECK-NEXT: plan.program @prefill_4
// CHECK:        plan.dispatch @embedding_16_32_2 {{.*}} write %[[X:[0-9]+]])
// CHECK:        plan.dispatch @rope_table_8 tiles 1 per_token (write %[[ROPE:[0-9]+]])
// CHECK:        %[[KEYS:.*]] = plan.resource keys 0 : <host>
// CHECK:        %[[VALUES:.*]] = plan.resource values 0 : <host>
// CHECK-NOT:    plan.copy
// CHECK:        plan.dispatch @operand_16_0_2_0 tiles 1 per_token (read %[[X]], read %[[X]], write %[[OPERAND:[0-9]+]])
// CHECK:        plan.dispatch @linear_16_16_2_2_16_0_1_{{[0-9]+_[0-9]+}} {{.*}} (read %[[OPERAND]], read %{{.*}}, write %[[Q:[0-9]+]])
// CHECK:        plan.dispatch @linear_16_8_2_2_8_0_0_{{[0-9]+_[0-9]+}} {{.*}} (read %[[OPERAND]], read %{{.*}}, write %[[K:[0-9]+]])
// CHECK:        plan.dispatch @linear_16_8_2_2_8_0_0_{{[0-9]+_[0-9]+}} {{.*}} (read %[[OPERAND]], read %{{.*}}, write %[[V:[0-9]+]])
// CHECK-NEXT:   plan.dispatch @rope_append_2_1_8_2 tiles 1 per_token (read_write %[[Q]], read %[[K]], read %[[V]], read %[[ROPE]], write %[[KEYS]], write %[[VALUES]])
// CHECK-NEXT:   plan.dispatch @attention_2_1_8_2_4096_32_1 tiles 1 (read %[[Q]], read %[[KEYS]], read %[[VALUES]], write %[[ATTENDED:[0-9]+]])
// CHECK:        plan.dispatch @operand_16_0_2_1 tiles 1 per_token (read %[[ATTENDED]], read %[[ATTENDED]], write %[[OPERAND:[0-9]+]])
// CHECK:        plan.dispatch @linear_16_16_2_2_16_1_1_{{[0-9]+_[0-9]+}} tiles 1 (read %[[OPERAND]], read %{{.*}}, read_write %[[X]])
func.func private @attention_in_place(%tokens: tensor<?xi32>) -> tensor<?x16xf32>
    attributes {moe.tier = "attention_in_place"} {
  %x = moe.embedding %tokens, @embedding : tensor<?xi32> -> tensor<?x16xf32>
  %y = moe.attention %x layer 0 q @q k @kv v @kv o @q heads 2 kv_heads 1 head_dim 8
         rope_theta 1.0e+06 sliding_window 4096 residual(%x : tensor<?x16xf32>) : tensor<?x16xf32>
  return %y : tensor<?x16xf32>
}

// Here the residual is used again: the sum goes into a copy of it.
// CHECK-LABEL: plan.plan @residual_used_later {
// CHECK-NEXT: plan.program @decode
// CHECK:        plan.dispatch @embedding_16_32_2 {{.*}} write %[[X:[0-9]+]])
// CHECK:        plan.dispatch @vector_attention_2_1_8_{{.*}} write %[[ATTENDED:[0-9]+]])
// CHECK:        plan.copy %[[X]] to %[[COPY:.*]] bytes 64 : <host> to <host>
// CHECK:        plan.dispatch @vector_linear_{{.*}} (read %[[ATTENDED]], read %[[ATTENDED]], read %{{.*}}, read_write %[[COPY]])
// CHECK:        plan.dispatch @add_16 tiles 1 per_token (read %[[X]], read %[[COPY]], write %{{.*}})
func.func private @residual_used_later(%tokens: tensor<?xi32>) -> tensor<?x16xf32>
    attributes {moe.tier = "residual_used_later"} {
  %x = moe.embedding %tokens, @embedding : tensor<?xi32> -> tensor<?x16xf32>
  %y = moe.attention %x layer 0 q @q k @kv v @kv o @q heads 2 kv_heads 1 head_dim 8
         rope_theta 1.0e+06 sliding_window 0 residual(%x : tensor<?x16xf32>) : tensor<?x16xf32>
  %z = moe.add %x, %y : tensor<?x16xf32>
  return %z : tensor<?x16xf32>
}

// Two layers share the table of positions. Of the last layer only the rows whose logits are wanted
// are computed (the constant `logits_rows`, at the end of a symbol or before its tuning), but for its
// keys and values; of the first every row, since the last one's keys and values come from it.
// CHECK-LABEL: plan.plan @one_rope_table {
// CHECK-NEXT: plan.program @decode
// CHECK:        plan.dispatch @rope_table_8
// CHECK-NOT:    plan.dispatch @rope_table_8
// CHECK:      plan.program @prefill_4
// CHECK:        plan.dispatch @linear_16_16_2_2_16_0_0_{{[0-9]+_[0-9]+}}
// CHECK:        plan.dispatch @rope_append_2_1_8_2
// CHECK-NEXT:   plan.dispatch @attention_2_1_8_2_0_32_0
// CHECK:        plan.dispatch @operand_16_0_2_0
// CHECK:        plan.dispatch @linear_16_16_2_2_16_0_0_{{[0-9]+_[0-9]+}}
// CHECK:        plan.dispatch @operand_16_0_2_0
// CHECK:        plan.dispatch @linear_16_16_2_2_16_0_1_{{[0-9]+_[0-9]+}}
// CHECK:        plan.dispatch @linear_16_8_2_2_8_0_0_{{[0-9]+_[0-9]+}}
// CHECK:        plan.dispatch @linear_16_8_2_2_8_0_0_{{[0-9]+_[0-9]+}}
// CHECK-NEXT:   plan.dispatch @rope_append_2_1_8_2
// CHECK-NEXT:   plan.dispatch @attention_2_1_8_2_0_32_1
// CHECK:        plan.dispatch @operand_16_0_2_1
// CHECK:        plan.dispatch @linear_16_16_2_2_16_0_1_{{[0-9]+_[0-9]+}}
func.func private @one_rope_table(%tokens: tensor<?xi32>) -> tensor<?x16xf32>
    attributes {moe.tier = "one_rope_table"} {
  %x = moe.embedding %tokens, @embedding : tensor<?xi32> -> tensor<?x16xf32>
  %y = moe.attention %x layer 0 q @q k @kv v @kv o @q heads 2 kv_heads 1 head_dim 8
         rope_theta 1.0e+06 sliding_window 0 : tensor<?x16xf32>
  %z = moe.attention %y layer 1 q @q k @kv v @kv o @q heads 2 kv_heads 1 head_dim 8
         rope_theta 1.0e+06 sliding_window 0 : tensor<?x16xf32>
  return %z : tensor<?x16xf32>
}

// Formats may differ inside a layer: the table says which expert has which, the kernels are told the
// set of formats that occur, here {bf16 (id 2)} = 4 upwards and {f32 (id 1), bf16} = 6 downwards, and
// the forms of activations beside them: BF16 = 2, and F32 | BF16 = 3. The router makes the first, gate
// and up the second: 64 * 2 bytes a row. Per token: the row of the embedding (32), the gate (128) and
// half of both experts' 2816 + 3584 (24 rows of bf16 lie in tiles of 16). What the function says of
// misses, the plan says.
// CHECK-LABEL: plan.plan @mixed_formats miss <cached, cache_slots = 1> {
// CHECK-NEXT: plan.expert_table 0 [#plan.expert<w1 = @"up@bf16", w3 = @"up@bf16", w2 = @"down@bf16", residency = host>,
// CHECK-SAME:                      #plan.expert<w1 = @"up@bf16", w3 = @"up@bf16", w2 = @"down@f32", residency = device>]
// CHECK-NEXT: plan.program @decode max_tokens 1 memory host weight_bytes_per_token 3360 {
// CHECK:        plan.dispatch @vector_router_16_2_1_0_2_1 tiles 1 (read %[[X:.*]], read %[[X]], read %{{.*}}, write %[[BEGIN:[0-9]+]], write %[[SLOT:[0-9]+]], write %[[WEIGHT:[0-9]+]], write %[[OPERAND:[0-9]+]])
// CHECK:        %[[TABLE:.*]] = plan.resource experts 0 : <host>
// CHECK-NEXT:   %{{.*}} = plan.alloc 64 : <host>
// CHECK-NEXT:   %[[H:.*]] = plan.alloc 192 : <host>
// CHECK:        plan.dispatch @experts_gate_up_16_24_2_4_2_3_24_1_{{[0-9]+_[0-9]+}} tiles 1 (read %[[OPERAND]], read %[[TABLE]], read %[[BEGIN]], read %[[SLOT]], write %[[H]])
// CHECK:        plan.dispatch @experts_down_16_24_2_6_3_16_0_1_{{[0-9]+_[0-9]+}} tiles 1 (read %[[H]], read %[[TABLE]], read %[[BEGIN]], read %[[SLOT]], read %[[WEIGHT]], write %{{.*}})
// CHECK:      plan.program @prefill_4
// CHECK:        plan.dispatch @router_16_2_1_0_2_1 tiles 1 per_token (read %[[X:.*]], read %[[X]], read %{{.*}}, write %[[IDS:[0-9]+]], write %[[WEIGHTS:[0-9]+]], write %[[OPERAND:[0-9]+]])
// CHECK:        plan.dispatch @group_by_expert_2_1_1 tiles 1 (read %[[IDS]], read %[[WEIGHTS]], write %[[BEGIN:[0-9]+]], write %[[SLOT:[0-9]+]], write %[[WEIGHT:[0-9]+]])
// CHECK:        plan.dispatch @experts_gate_up_16_24_2_4_2_3_24_0_{{[0-9]+_[0-9]+}} tiles 1 (read %[[OPERAND]], read %{{.*}}, read %[[BEGIN]], read %[[SLOT]], write %[[H:.*]])
// CHECK:        plan.dispatch @experts_down_16_24_2_6_3_16_0_0_{{[0-9]+_[0-9]+}} tiles 1 (read %[[H]], read %{{.*}}, read %[[BEGIN]], read %[[SLOT]], read %[[WEIGHT]], write %{{.*}})
func.func private @mixed_formats(%tokens: tensor<?xi32>) -> tensor<?x16xf32>
    attributes {moe.tier = "mixed_formats", moe.miss = #moe.miss<cached, cache_slots = 1>} {
  %x = moe.embedding %tokens, @embedding : tensor<?xi32> -> tensor<?x16xf32>
  %ids, %weights = moe.router %x, @gate : tensor<?x16xf32> -> tensor<?x1xi32>, tensor<?x1xf32>
  %y = moe.experts %x, %ids, %weights layer 0
         [#moe.expert<w1 = @up, w3 = @up, w2 = @down,
            placement = #moe.placement<w1 = "bf16", w3 = "bf16", w2 = "bf16", residency = host>>,
          #moe.expert<w1 = @up, w3 = @up, w2 = @down,
            placement = #moe.placement<w1 = "bf16", w3 = "bf16", w2 = "f32", residency = device>>]
         : tensor<?x16xf32>, tensor<?x1xi32>, tensor<?x1xf32>
  return %y : tensor<?x16xf32>
}

// Packed formats: the matrices outside the experts have the function's own. Norms stay f32. All read
// activations in the form Q8 = 4. A tile has a multiple of 16 rows, or all of them; one of gate and up a
// multiple of 128.
// CHECK-LABEL: plan.plan @packed_formats {
// CHECK-NEXT: plan.expert_table 0 [#plan.expert<w1 = @"up@int4g32", w3 = @"up@int3g64", w2 = @"down@int2g128", residency = host>]
// CHECK:        plan.dispatch @embedding_16_32_4 tiles 1 per_token (read %{{.*}}, read %{{.*}}, write %{{.*}})
// CHECK:        plan.dispatch @experts_gate_up_16_24_1_1088_4_4_24_1_{{[0-9]+_[0-9]+}} tiles 1
// CHECK:        plan.dispatch @experts_down_16_24_1_16384_4_16_0_1_{{[0-9]+_[0-9]+}} tiles 1
// CHECK:        plan.weight @"norm@f32"
// CHECK:        plan.weight @"embedding@int8g64"
// CHECK:        plan.dispatch @vector_linear_16_32_1_4_16_0_1_{{[0-9]+_[0-9]+}} tiles 2
// CHECK:      plan.program @prefill_4
// CHECK:        plan.dispatch @experts_gate_up_16_24_1_1088_4_4_24_0_{{[0-9]+_[0-9]+}} tiles 1
// CHECK:        plan.dispatch @linear_16_32_4_4_16_0_1_{{[0-9]+_[0-9]+}} tiles 2
func.func private @packed_formats(%tokens: tensor<?xi32>) -> tensor<?x32xf32>
    attributes {moe.tier = "packed_formats", moe.non_expert_format = "int8g64"} {
  %x = moe.embedding %tokens, @embedding : tensor<?xi32> -> tensor<?x16xf32>
  %ids, %weights = moe.router %x, @gate : tensor<?x16xf32> -> tensor<?x1xi32>, tensor<?x1xf32>
  %y = moe.experts %x, %ids, %weights layer 0
         [#moe.expert<w1 = @up, w3 = @up, w2 = @down,
            placement = #moe.placement<w1 = "int4g32", w3 = "int3g64", w2 = "int2g128", residency = host>>]
         : tensor<?x16xf32>, tensor<?x1xi32>, tensor<?x1xf32>
  %n = moe.rms_norm %y, @norm epsilon 1.0e-05 : tensor<?x16xf32>
  %logits = moe.logits %n, @embedding : tensor<?x16xf32> -> tensor<?x32xf32>
  return %logits : tensor<?x32xf32>
}
}

// All plans share the segments and kernels.
// CHECK-DAG: plan.segment @"down@bf16" source "down" format "bf16" shape [16, 24]
// CHECK-DAG: plan.segment @"down@f32" source "down" format "f32" shape [16, 24]
// CHECK-DAG: plan.segment @"embedding@bf16" source "model.embed_tokens.weight" format "bf16" shape [32, 16]
// CHECK-DAG: plan.kernel @experts_down_16_24_2_6_3_16_0_1_{{[0-9]+_[0-9]+}} implements "experts_down" {accumulate = 0 : i64, features = 16 : i64, formats = 6 : i64, h_forms = 3 : i64, intermediate = 24 : i64, max_tokens = 1 : i64, num_experts = 2 : i64, prefetch = {{[0-9]+}} : i64, rows_per_tile = 16 : i64, unroll = {{[124]}} : i64}
// CHECK-DAG: plan.kernel @operand_16_1_2_1 implements "operand" {epsilon = 1.000000e-05 : f64, features = 16 : i64, forms = 2 : i64, logits_rows = 1 : i64, normalize = 1 : i64}
