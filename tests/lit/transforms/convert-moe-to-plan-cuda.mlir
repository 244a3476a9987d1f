// With device-tokens a plan has programs of CUDA kernels besides those for CPUs: their buffers are in
// device memory, their kernels say how they are launched, and grids do not depend on the step.
// RUN: moeplan-opt %s --convert-moe-to-plan="prefill-tokens=4 device-tokens=1,8,64" --check-kernel-formats --schedule-transfers --assign-arena | FileCheck %s
// RUN: moeplan-opt %s --convert-moe-to-plan="prefill-tokens=4 device-tokens=1,8,64" | FileCheck %s --check-prefix=KERNEL
// RUN: moeplan-opt %s --convert-moe-to-plan="prefill-tokens=4" | FileCheck %s --check-prefix=CPU --implicit-check-not=cuda --implicit-check-not=@device_
// RUN: moeplan-opt %s --convert-moe-to-plan="prefill-tokens=4 synthetic" | FileCheck %s --check-prefix=CPU --implicit-check-not=cuda
// RUN: moeplan-opt %s --convert-moe-to-plan="prefill-tokens=4 device-tokens=1 synthetic" | FileCheck %s --check-prefix=SYNTHETIC
// SYNTHETIC: plan.kernel @cuda_generate_weight_256 implements "generate_weight" machine cuda bindings 1 {threads = 256 : i64}
// CPU: plan.program @prefill_4
module attributes {moe.config = #moe.config<
    vocab_size = 32, hidden_size = 64, intermediate_size = 80, num_layers = 2,
    num_attention_heads = 2, num_key_value_heads = 1, head_dim = 32, num_experts = 2,
    num_experts_per_tok = 1, rms_norm_eps = 1.0e-05 : f64, rope_theta = 1.0e+06 : f64,
    sliding_window = 0, max_position_embeddings = 64, tie_word_embeddings = false,
    bos_token_id = 1, eos_token_ids = [2]>} {

moe.weight @embedding : tensor<32x64xbf16> source "embedding" in "model.safetensors" at 0
moe.weight @norm : tensor<64xbf16> source "norm" in "model.safetensors" at 4096
moe.weight @q : tensor<64x64xbf16> source "q" in "model.safetensors" at 8192
moe.weight @kv : tensor<32x64xbf16> source "kv" in "model.safetensors" at 16384
moe.weight @gate : tensor<2x64xbf16> source "gate" in "model.safetensors" at 32768
moe.weight @up : tensor<80x64xbf16> source "up" in "model.safetensors" at 65536
moe.weight @down : tensor<64x80xbf16> source "down" in "model.safetensors" at 131072

// A kernel for up to 8 tokens takes 32 rows of a weight a block. One token's context is among 16 blocks a head, that of up to 8 tokens among 4. Where all formats have at most 4 bits (8256 is
// {int4g32, int2g64}), the experts' blocks for one token have twice the threads.
// KERNEL-DAG: plan.kernel @cuda_qkv_64_2_1_32_2_1_1_256 implements "qkv" machine cuda {epsilon = {{.*}}, head_dim = 32 : i64, in_features = 64 : i64, log_theta = 13.81{{[0-9]*}} : f64, max_tokens = 1 : i64, normalize = 1 : i64, num_heads = 2 : i64, num_kv_heads = 1 : i64, threads = 256 : i64, weight_format = 2 : i64}
// KERNEL-DAG: plan.kernel @cuda_attention_2_1_32_0_1_128_16 implements "attention" machine cuda {{.*}}splits = 16 : i64, threads = 128 : i64}
// KERNEL-DAG: plan.kernel @cuda_attention_2_1_32_0_8_128_4 {{.*}}splits = 4 : i64
// KERNEL-DAG: plan.kernel @cuda_router_64_2_1_1_8_8_256 implements "router" machine cuda {counter_index = 8 : i64, epsilon = {{.*}}, features = 64 : i64, max_tokens = 8 : i64,
// KERNEL-DAG: plan.kernel @cuda_experts_gate_up_64_80_2_1_8256_1_1_256 {{.*}}formats = 8256 : i64{{.*}}threads = 256 : i64
// KERNEL-DAG: plan.kernel @cuda_experts_gate_up_64_80_2_1_8256_1_8_128 {{.*}}threads = 128 : i64
// KERNEL-DAG: plan.kernel @cuda_experts_down_64_80_2_1_4_1_1_512 {{.*}}formats = 4 : i64{{.*}}threads = 512 : i64

// The programs for CPUs come first. Then six launches a layer: the norm is part of what reads it, the
// counters that qkv clears tell attention which block is the last of a head, and the router which is the
// last of all; the residual is added in place. Behind the logits, the largest of the last row are found. Of many tokens, products take tiles: 64 of them, of an
// expert as many as it has on average; their rows are rounded and gathered before, and the experts' sums
// put together behind.
// CHECK-LABEL: plan.plan @whole
// CHECK:      plan.program @decode max_tokens 1 memory host
// CHECK:      plan.program @prefill_4 max_tokens 4 memory host
// CHECK:      plan.program @device_decode max_tokens 1 memory device arena_bytes {{[0-9]+}} weight_bytes_per_token 45360 {
// CHECK:        plan.dispatch @cuda_embedding_64_32_2_256 tiles 1 per_token (read %{{.*}}, read %{{.*}}, write %[[X:[0-9]+]]) : !plan.buffer<device>
// CHECK:        %[[NORM:.*]] = plan.weight @"norm@f32" : <device>
// CHECK:        %[[KEYS:.*]] = plan.resource keys 0 : <device>
// CHECK:        %[[VALUES:.*]] = plan.resource values 0 : <device>
// CHECK:        plan.alloc 8 offset {{[0-9]+}} : <device>
// CHECK:        plan.dispatch @cuda_qkv_64_2_1_32_2_1_1_256 tiles 4 (read %[[X]], read %[[NORM]], read %{{.*}}, read %{{.*}}, read %{{.*}}, read_write %[[KEYS]], read_write %[[VALUES]], write %[[Q:[0-9]+]], write %[[COUNTERS:[0-9]+]])
// CHECK:        plan.dispatch @cuda_attention_2_1_32_0_1_128_16 tiles 16 per_token (read %[[Q]], read %[[KEYS]], read %[[VALUES]], write %{{.*}}, read_write %[[COUNTERS]], write %[[ATTENDED:[0-9]+]])
// CHECK:        plan.dispatch @cuda_linear_64_64_0_2_1_0_1_256 tiles 2 (read %[[ATTENDED]], read %[[ATTENDED]], read %{{.*}}, read_write %[[X]])
// CHECK:        plan.dispatch @cuda_router_64_2_1_1_1_1_256 tiles 1 per_token (read %[[X]], read %{{.*}}, read %{{.*}}, write %{{.*}}, write %{{.*}}, read_write %[[COUNTERS]], write %[[BEGIN:[0-9]+]], write %[[SLOT:[0-9]+]], write %[[WEIGHT:[0-9]+]])
// CHECK:        %[[TABLE:.*]] = plan.resource experts 0 : <device>
// CHECK:        plan.dispatch @cuda_experts_gate_up_64_80_2_1_8256_1_1_256 tiles 3 (read %[[X]], read %{{.*}}, read %[[TABLE]], read %[[BEGIN]], read %[[SLOT]], write %[[H:[0-9]+]])
// CHECK:        plan.dispatch @cuda_experts_down_64_80_2_1_4_1_1_512 tiles 2 (read %[[H]], read %[[TABLE]], read %[[BEGIN]], read %[[SLOT]], read %[[WEIGHT]], read_write %[[X]])
// CHECK:        %[[LOGITS:.*]] = plan.resource logits 0 bytes 128 : <device>
// CHECK:        plan.dispatch @cuda_linear_64_32_1_2_0_1_1_256 tiles 1 (read %[[X]], read %{{.*}}, read %{{.*}}, write %[[LOGITS]])
// CHECK:        %[[FOUND:.*]] = plan.resource candidates 0 bytes 512 : <device>
// CHECK:        plan.dispatch @cuda_candidates_32_64_1024 tiles 1 (read %[[LOGITS]], write %[[FOUND]])
// CHECK-NOT:    plan.dispatch
// CHECK:      plan.program @device_decode_8 max_tokens 8 memory device
// CHECK:        plan.dispatch @cuda_experts_gate_up_{{.*}} tiles 6 (
// CHECK:      plan.program @device_prefill_64 max_tokens 64 memory device
// CHECK:        plan.dispatch @cuda_embedding_{{.*}} write %[[X:[0-9]+]]) :
// CHECK:        plan.dispatch @cuda_rounded_rows_64_1_256 tiles 1 per_token (read %[[X]], read %{{.*}}, write %[[ROWS:[0-9]+]])
// CHECK:        plan.dispatch @cuda_qkv_prompt_64_2_1_32_2_64_64_64 tiles 2 (read %[[ROWS]], {{.*}} write %[[Q:[0-9]+]], write %[[COUNTERS:[0-9]+]])
// CHECK:        plan.dispatch @cuda_attention_prompt_2_1_32_0_64_128 tiles 2 (read %[[Q]], {{.*}}write %[[ATTENDED:[0-9]+]])
// CHECK:        plan.dispatch @cuda_linear_prompt_64_64_2_1_0_64_64_64 tiles 1 (read %[[ATTENDED]], read %{{.*}}, read_write %[[X]])
// CHECK:        plan.dispatch @cuda_router_{{.*}}read_write %[[COUNTERS]], write %[[BEGIN:[0-9]+]], write %[[SLOT:[0-9]+]], write %[[WEIGHT:[0-9]+]])
// CHECK:        plan.dispatch @cuda_rounded_rows_64_1_256 tiles 1 per_token (read %[[X]], read %{{.*}}, write %[[ROWS:[0-9]+]])
// CHECK:        plan.dispatch @cuda_experts_gate_up_prompt_64_80_2_1_8256_64_32_128 tiles 8 (read %[[ROWS]], read %[[TABLE:[0-9]+]], read %[[BEGIN]], read %[[SLOT]], write %[[H:[0-9]+]])
// CHECK:        plan.dispatch @cuda_experts_down_prompt_64_80_2_1_4_64_32_128 tiles 4 (read %[[H]], read %[[TABLE]], read %[[BEGIN]], write %[[Z:[0-9]+]])
// CHECK:        plan.dispatch @cuda_combine_experts_64_2_1_256 tiles 1 per_token (read %[[Z]], read %[[BEGIN]], read %[[SLOT]], read %[[WEIGHT]], read_write %[[X]])
// CHECK:        plan.dispatch @cuda_rounded_rows_64_1_256
// CHECK:        plan.dispatch @cuda_linear_prompt_64_32_2_0_1_64_64_64 tiles 1
func.func private @whole(%tokens: tensor<?xi32>) -> tensor<?x32xf32> attributes {moe.tier = "whole"} {
  %x = moe.embedding %tokens, @embedding : tensor<?xi32> -> tensor<?x64xf32>
  %n = moe.rms_norm %x, @norm epsilon 1.0e-05 : tensor<?x64xf32>
  %a = moe.attention %n layer 0 q @q k @kv v @kv o @q heads 2 kv_heads 1 head_dim 32
    rope_theta 1.0e+06 sliding_window 0 residual(%x : tensor<?x64xf32>) : tensor<?x64xf32>
  %m = moe.rms_norm %a, @norm epsilon 1.0e-05 : tensor<?x64xf32>
  %ids, %weights = moe.router %m, @gate : tensor<?x64xf32> -> tensor<?x1xi32>, tensor<?x1xf32>
  %y = moe.experts %m, %ids, %weights layer 0
         [#moe.expert<w1 = @up, w3 = @up, w2 = @down,
            placement = #moe.placement<w1 = "int4g32", w3 = "int4g32", w2 = "bf16", residency = device>>,
          #moe.expert<w1 = @up, w3 = @up, w2 = @down,
            placement = #moe.placement<w1 = "int2g64", w3 = "int4g32", w2 = "bf16", residency = host>>]
         residual(%a : tensor<?x64xf32>) : tensor<?x64xf32>, tensor<?x1xi32>, tensor<?x1xf32>
  %f = moe.rms_norm %y, @norm epsilon 1.0e-05 : tensor<?x64xf32>
  %logits = moe.logits %f, @embedding : tensor<?x64xf32> -> tensor<?x32xf32>
  return %logits : tensor<?x32xf32>
}

// What the host keeps is fetched first where the plan says so, and the layer has any.
// CHECK-LABEL: plan.plan @fetched miss <stream>
// CHECK:      plan.program @device_decode max_tokens 1
// CHECK:        plan.dispatch @cuda_router_{{.*}} write %[[BEGIN:[0-9]+]], write %{{[0-9]+}}, write %{{[0-9]+}})
// CHECK:        %[[TABLE:.*]] = plan.resource experts 0 : <device>
// CHECK:        %[[SLOTS:.*]] = plan.resource expert_slots 0 : <device>
// CHECK:        plan.dispatch @cuda_fetch_experts_64_80_2_68_256 tiles 128 (read_write %[[TABLE]], read %[[BEGIN]], read_write %[[SLOTS]])
// CHECK:        plan.barrier
// CHECK-NEXT:   plan.dispatch @cuda_experts_gate_up_
// CHECK:        plan.resource experts 1
// CHECK-NOT:    fetch_experts
// CHECK:      plan.program @device_decode_8
func.func private @fetched(%tokens: tensor<?xi32>) -> tensor<?x32xf32>
    attributes {moe.tier = "fetched", moe.miss = #moe.miss<stream>} {
  %x = moe.embedding %tokens, @embedding : tensor<?xi32> -> tensor<?x64xf32>
  %n = moe.rms_norm %x, @norm epsilon 1.0e-05 : tensor<?x64xf32>
  %a = moe.attention %n layer 0 q @q k @kv v @kv o @q heads 2 kv_heads 1 head_dim 32
    rope_theta 1.0e+06 sliding_window 0 residual(%x : tensor<?x64xf32>) : tensor<?x64xf32>
  %ids, %weights = moe.router %a, @gate : tensor<?x64xf32> -> tensor<?x1xi32>, tensor<?x1xf32>
  %y = moe.experts %a, %ids, %weights layer 0
         [#moe.expert<w1 = @up, w3 = @up, w2 = @down,
            placement = #moe.placement<w1 = "int4g32", w3 = "int4g32", w2 = "bf16", residency = device>>,
          #moe.expert<w1 = @up, w3 = @up, w2 = @down,
            placement = #moe.placement<w1 = "int4g32", w3 = "int4g32", w2 = "bf16", residency = host>>]
         residual(%a : tensor<?x64xf32>) : tensor<?x64xf32>, tensor<?x1xi32>, tensor<?x1xf32>
  %b = moe.attention %y layer 1 q @q k @kv v @kv o @q heads 2 kv_heads 1 head_dim 32
    rope_theta 1.0e+06 sliding_window 0 residual(%y : tensor<?x64xf32>) : tensor<?x64xf32>
  %ids1, %weights1 = moe.router %b, @gate : tensor<?x64xf32> -> tensor<?x1xi32>, tensor<?x1xf32>
  %z = moe.experts %b, %ids1, %weights1 layer 1
         [#moe.expert<w1 = @up, w3 = @up, w2 = @down,
            placement = #moe.placement<w1 = "int4g32", w3 = "int4g32", w2 = "bf16", residency = device>>,
          #moe.expert<w1 = @up, w3 = @up, w2 = @down,
            placement = #moe.placement<w1 = "int4g32", w3 = "int4g32", w2 = "bf16", residency = device>>]
         residual(%b : tensor<?x64xf32>) : tensor<?x64xf32>, tensor<?x1xi32>, tensor<?x1xf32>
  %logits = moe.logits %z, @embedding : tensor<?x64xf32> -> tensor<?x32xf32>
  return %logits : tensor<?x32xf32>
}

// What the host keeps, it computes where the plan says so, beside the device: that is given the other slots.
// Prompts read it in place.
// CHECK-LABEL: plan.plan @computed miss <host_compute>
// CHECK:      plan.program @device_decode max_tokens 1 memory device arena_bytes {{[0-9]+}} pinned_bytes {{[0-9]+}}
// CHECK:        plan.dispatch @cuda_router_{{.*}} write %[[IDS:[0-9]+]], write %{{[0-9]+}}, {{.*}}write %[[BEGIN:[0-9]+]], write %[[TOKEN:[0-9]+]], write %[[WEIGHT:[0-9]+]])
// CHECK:        %[[TABLE:.*]] = plan.resource experts 0 : <device>
// CHECK:        plan.dispatch @cuda_experts_to_host_64_2_1_0_256 tiles 1 per_token (read %[[X:[0-9]+]], read %[[X]], read %[[TABLE]], read %[[IDS]], read %[[BEGIN]], read %[[TOKEN]], read %[[WEIGHT]], write %[[ROWS:[0-9]+]], write %[[HERE:[0-9]+]], write %[[HERETOKEN:[0-9]+]], write %[[HEREWEIGHT:[0-9]+]], write %[[THERE:[0-9]+]], write %[[THERETOKEN:[0-9]+]], write %[[THEREWEIGHT:[0-9]+]])
// CHECK-NOT:    plan.barrier
// CHECK:        plan.dispatch @operand_64_0_{{[0-9]+}}_0 tiles 1 per_token (read %[[ROWS]], read %[[ROWS]], write %[[OPERAND:[0-9]+]]) : !plan.buffer<pinned>
// CHECK:        %[[OWN:.*]] = plan.resource experts 0 : <host>
// CHECK:        plan.barrier
// CHECK-NEXT:   plan.dispatch @experts_gate_up_{{.*}} (read %[[OPERAND]], read %[[OWN]], read %[[THERE]], read %[[THERETOKEN]], write %[[H:[0-9]+]])
// CHECK:        plan.barrier
// CHECK-NEXT:   plan.dispatch @experts_down_{{.*}} (read %[[H]], read %[[OWN]], read %[[THERE]], read %[[THERETOKEN]], read %[[THEREWEIGHT]], write %[[SUMS:[0-9]+]])
// CHECK:        plan.dispatch @cuda_experts_gate_up_{{.*}} (read %[[X]], read %[[X]], read %[[TABLE]], read %[[HERE]], read %[[HERETOKEN]], write %[[G:[0-9]+]])
// CHECK:        plan.dispatch @cuda_experts_down_{{.*}} (read %[[G]], read %[[TABLE]], read %[[HERE]], read %[[HERETOKEN]], read %[[HEREWEIGHT]], read_write %[[X]])
// CHECK-NEXT:   plan.join
// CHECK-NEXT:   plan.dispatch @cuda_experts_from_host_64_1_256 tiles 1 per_token (read %[[TABLE]], read %[[IDS]], read %[[SUMS]], read_write %[[X]])
// CHECK:        plan.resource experts 1
// CHECK-NOT:    plan.dispatch @cuda_experts_to_host
// CHECK:      plan.program @device_decode_8 {{.*}}pinned_bytes
// CHECK:        plan.dispatch @cuda_experts_to_host_
// CHECK:      plan.program @device_prefill_64
// CHECK-NOT:    pinned
// CHECK-NOT:    plan.dispatch @cuda_experts_to_host
func.func private @computed(%tokens: tensor<?xi32>) -> tensor<?x32xf32>
    attributes {moe.tier = "computed", moe.miss = #moe.miss<host_compute>} {
  %x = moe.embedding %tokens, @embedding : tensor<?xi32> -> tensor<?x64xf32>
  %n = moe.rms_norm %x, @norm epsilon 1.0e-05 : tensor<?x64xf32>
  %a = moe.attention %n layer 0 q @q k @kv v @kv o @q heads 2 kv_heads 1 head_dim 32
    rope_theta 1.0e+06 sliding_window 0 residual(%x : tensor<?x64xf32>) : tensor<?x64xf32>
  %ids, %weights = moe.router %a, @gate : tensor<?x64xf32> -> tensor<?x1xi32>, tensor<?x1xf32>
  %y = moe.experts %a, %ids, %weights layer 0
         [#moe.expert<w1 = @up, w3 = @up, w2 = @down,
            placement = #moe.placement<w1 = "int4g32", w3 = "int4g32", w2 = "bf16", residency = device>>,
          #moe.expert<w1 = @up, w3 = @up, w2 = @down,
            placement = #moe.placement<w1 = "int4g32", w3 = "int4g32", w2 = "bf16", residency = host>>]
         residual(%a : tensor<?x64xf32>) : tensor<?x64xf32>, tensor<?x1xi32>, tensor<?x1xf32>
  %b = moe.attention %y layer 1 q @q k @kv v @kv o @q heads 2 kv_heads 1 head_dim 32
    rope_theta 1.0e+06 sliding_window 0 residual(%y : tensor<?x64xf32>) : tensor<?x64xf32>
  %ids1, %weights1 = moe.router %b, @gate : tensor<?x64xf32> -> tensor<?x1xi32>, tensor<?x1xf32>
  %z = moe.experts %b, %ids1, %weights1 layer 1
         [#moe.expert<w1 = @up, w3 = @up, w2 = @down,
            placement = #moe.placement<w1 = "int4g32", w3 = "int4g32", w2 = "bf16", residency = device>>,
          #moe.expert<w1 = @up, w3 = @up, w2 = @down,
            placement = #moe.placement<w1 = "int4g32", w3 = "int4g32", w2 = "bf16", residency = device>>]
         residual(%b : tensor<?x64xf32>) : tensor<?x64xf32>, tensor<?x1xi32>, tensor<?x1xf32>
  %logits = moe.logits %z, @embedding : tensor<?x64xf32> -> tensor<?x32xf32>
  return %logits : tensor<?x32xf32>
}
}
