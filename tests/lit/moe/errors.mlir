// What the verifiers of the dialect refuse, and what they say.
// RUN: moeplan-opt %s -verify-diagnostics -split-input-file

//===--- attributes -------------------------------------------------------------------------===//

// expected-error @+1 {{unknown format 'int9', known are 'f32', 'bf16', 'int8g32', }}
module attributes {test.value = #moe.placement<w1 = "bf16", w3 = "int9", w2 = "bf16", residency = host>} {}

// -----

// expected-error @+2 {{expected ::moeplan::moe::Residency to be one of: host, device}}
// expected-error @+1 {{failed to parse Moe_PlacementAttr parameter 'residency'}}
module attributes {test.value = #moe.placement<w1 = "bf16", w3 = "bf16", w2 = "bf16", residency = disk>} {}

// -----

// expected-error @+1 {{unknown format 'fp16', known are}}
moe.tier @t [#moe.rule<pattern = "*", format = "fp16">]

// -----

// expected-error @+1 {{'moe.tier' op non_experts: unknown format 'int8', known are}}
moe.tier @t [#moe.rule<pattern = "*", format = "bf16", residency = "host">] non_experts "int8"

// -----

// expected-error @+1 {{'moe.tier' op needs either rules or the placement of every expert}}
moe.tier @t non_experts "bf16"

// -----

// expected-error @+1 {{'moe.tier' op needs either rules or the placement of every expert}}
moe.tier @t [#moe.rule<pattern = "*", format = "bf16", residency = "host">]
  placed [#moe.placement<w1 = "bf16", w3 = "bf16", w2 = "bf16", residency = host>]

// -----

// expected-error @+1 {{cache_slots must be positive for 'cached' and 0 for any other strategy}}
module attributes {test.value = #moe.miss<cached>} {}

// -----

// expected-error @+1 {{cache_slots must be positive for 'cached' and 0 for any other strategy}}
module attributes {test.value = #moe.miss<cached, cache_slots = -1>} {}

// -----

// expected-error @+1 {{cache_slots must be positive for 'cached' and 0 for any other strategy}}
module attributes {test.value = #moe.miss<stream, cache_slots = 4>} {}

// -----

// expected-error @+1 {{unknown residency 'disk', known are 'host' 'device'}}
moe.tier @t [#moe.rule<pattern = "*", residency = "disk">]

// -----

// expected-error @+1 {{bad pattern 'layers.[0'}}
moe.tier @t [#moe.rule<pattern = "layers.[0", format = "bf16">]

// -----

//===--- weights ----------------------------------------------------------------------------===//

// expected-error @+1 {{must be a vector or a matrix with a static shape, got 'tensor<?x16xbf16>'}}
moe.weight @w : tensor<?x16xbf16> source "w" in "model.safetensors" at 0

// -----

// expected-error @+1 {{must be a vector or a matrix with a static shape, got 'tensor<2x2x2xbf16>'}}
moe.weight @w : tensor<2x2x2xbf16> source "w" in "model.safetensors" at 0

// -----

// expected-error @+1 {{must be a vector or a matrix with a static shape, got 'tensor<bf16>'}}
moe.weight @w : tensor<bf16> source "w" in "model.safetensors" at 0

// -----

// expected-error @+1 {{attribute 'type' failed to satisfy constraint}}
moe.weight @w : tensor<16xi8> source "w" in "model.safetensors" at 0

// -----

// expected-error @+1 {{attribute 'offset' failed to satisfy constraint: 64-bit signless integer attribute whose value is non-negative}}
moe.weight @w : tensor<16xbf16> source "w" in "model.safetensors" at -2

// -----

//===--- ops that name weights --------------------------------------------------------------===//

func.func @embedding_without_table(%tokens: tensor<?xi32>) {
  // expected-error @+1 {{'moe.embedding' op @missing is not a moe.weight}}
  %x = moe.embedding %tokens, @missing : tensor<?xi32> -> tensor<?x16xf32>
  return
}

// -----

moe.weight @w : tensor<32x8xbf16> source "w" in "model.safetensors" at 0
func.func @embedding_of_another_width(%tokens: tensor<?xi32>) {
  // expected-error @+1 {{weight @w has shape [32, 8], expected [32, 16]}}
  %x = moe.embedding %tokens, @w : tensor<?xi32> -> tensor<?x16xf32>
  return
}

// -----

// A function is a symbol, but no weight.
func.func @rms_norm_by_a_function(%x: tensor<?x16xf32>) {
  // expected-error @+1 {{'moe.rms_norm' op @rms_norm_by_a_function is not a moe.weight}}
  %y = moe.rms_norm %x, @rms_norm_by_a_function epsilon 1.0e-05 : tensor<?x16xf32>
  return
}

// -----

moe.weight @w : tensor<16x1xbf16> source "w" in "model.safetensors" at 0
func.func @rms_norm_by_a_matrix(%x: tensor<?x16xf32>) {
  // expected-error @+1 {{weight @w has shape [16, 1], expected [16]}}
  %y = moe.rms_norm %x, @w epsilon 1.0e-05 : tensor<?x16xf32>
  return
}

// -----

// Rows of the output projection are the vocabulary.
moe.weight @w : tensor<16x32xbf16> source "w" in "model.safetensors" at 0
func.func @logits_transposed(%x: tensor<?x16xf32>) {
  // expected-error @+1 {{weight @w has shape [16, 32], expected [32, 16]}}
  %y = moe.logits %x, @w : tensor<?x16xf32> -> tensor<?x32xf32>
  return
}

// -----

func.func @add_of_two_widths(%x: tensor<?x16xf32>, %y: tensor<?x8xf32>) {
  // expected-note @-1 {{prior use here}}
  // expected-error @+1 {{use of value '%y' expects different type than prior uses}}
  %z = moe.add %x, %y : tensor<?x16xf32>
  return
}

// -----

func.func @activations_are_float32(%x: tensor<?x16xbf16>) {
  // expected-error @+1 {{operand #0 must be 2D tensor of 32-bit float values}}
  %z = moe.add %x, %x : tensor<?x16xbf16>
  return
}

// -----

//===--- attention --------------------------------------------------------------------------===//

func.func @heads_do_not_divide(%x: tensor<?x16xf32>) {
  // expected-error @+1 {{3 heads cannot share 2 key/value heads evenly}}
  %y = moe.attention %x layer 0 q @q k @k v @v o @o heads 3 kv_heads 2 head_dim 8
         rope_theta 1.0e+06 sliding_window 0 : tensor<?x16xf32>
  return
}

// -----

func.func @odd_head(%x: tensor<?x16xf32>) {
  // expected-error @+1 {{rotary positions need an even head_dim, got 7}}
  %y = moe.attention %x layer 0 q @q k @k v @v o @o heads 2 kv_heads 1 head_dim 7
         rope_theta 1.0e+06 sliding_window 0 : tensor<?x16xf32>
  return
}

// -----

func.func @attention_residual_of_another_width(%x: tensor<?x16xf32>, %r: tensor<?x8xf32>) {
  // expected-error @+1 {{residual must have the type of x}}
  %y = moe.attention %x layer 0 q @q k @k v @v o @o heads 2 kv_heads 1 head_dim 8
         rope_theta 1.0e+06 sliding_window 0 residual(%r : tensor<?x8xf32>) : tensor<?x16xf32>
  return
}

// -----

// With grouped queries, k has the rows of the key/value heads only.
moe.weight @w : tensor<16x16xbf16> source "w" in "model.safetensors" at 0
func.func @keys_of_every_head(%x: tensor<?x16xf32>) {
  // expected-error @+1 {{weight @w has shape [16, 16], expected [8, 16]}}
  %y = moe.attention %x layer 0 q @w k @w v @w o @w heads 2 kv_heads 1 head_dim 8
         rope_theta 1.0e+06 sliding_window 0 : tensor<?x16xf32>
  return
}

// -----

//===--- routing and experts ----------------------------------------------------------------===//

func.func @router_without_gate(%x: tensor<?x16xf32>) {
  // expected-error @+1 {{@missing is not a moe.weight}}
  %ids, %weights = moe.router %x, @missing : tensor<?x16xf32> -> tensor<?x2xi32>, tensor<?x2xf32>
  return
}

// -----

moe.weight @gate : tensor<4x16xbf16> source "gate" in "model.safetensors" at 0
func.func @more_choices_than_experts(%x: tensor<?x16xf32>) {
  // expected-error @+1 {{cannot pick 5 of 4 experts with 5 weights}}
  %ids, %weights = moe.router %x, @gate : tensor<?x16xf32> -> tensor<?x5xi32>, tensor<?x5xf32>
  return
}

// -----

moe.weight @gate : tensor<4x16xbf16> source "gate" in "model.safetensors" at 0
func.func @a_weight_per_choice(%x: tensor<?x16xf32>) {
  // expected-error @+1 {{cannot pick 2 of 4 experts with 1 weights}}
  %ids, %weights = moe.router %x, @gate : tensor<?x16xf32> -> tensor<?x2xi32>, tensor<?x1xf32>
  return
}

// -----

moe.weight @gate : tensor<4x8xbf16> source "gate" in "model.safetensors" at 0
func.func @gate_of_another_width(%x: tensor<?x16xf32>) {
  // expected-error @+1 {{weight @gate has shape [4, 8], expected [4, 16]}}
  %ids, %weights = moe.router %x, @gate : tensor<?x16xf32> -> tensor<?x2xi32>, tensor<?x2xf32>
  return
}

// -----

func.func @no_experts(%x: tensor<?x16xf32>, %ids: tensor<?x1xi32>, %weights: tensor<?x1xf32>) {
  // expected-error @+1 {{needs at least one expert}}
  %y = moe.experts %x, %ids, %weights layer 0 []
         : tensor<?x16xf32>, tensor<?x1xi32>, tensor<?x1xf32>
  return
}

// -----

func.func @ids_without_weights(%x: tensor<?x16xf32>, %ids: tensor<?x2xi32>, %weights: tensor<?x1xf32>) {
  // expected-error @+1 {{has 2 experts per token but 1 weights}}
  %y = moe.experts %x, %ids, %weights layer 0 [#moe.expert<w1 = @up, w3 = @up, w2 = @down>]
         : tensor<?x16xf32>, tensor<?x2xi32>, tensor<?x1xf32>
  return
}

// -----

func.func @experts_residual_of_another_width(%x: tensor<?x16xf32>, %ids: tensor<?x1xi32>,
                                             %weights: tensor<?x1xf32>, %r: tensor<?x8xf32>) {
  // expected-error @+1 {{residual must have the type of x}}
  %y = moe.experts %x, %ids, %weights layer 0 [#moe.expert<w1 = @up, w3 = @up, w2 = @down>]
         residual(%r : tensor<?x8xf32>) : tensor<?x16xf32>, tensor<?x1xi32>, tensor<?x1xf32>
  return
}

// -----

func.func @half_placed(%x: tensor<?x16xf32>, %ids: tensor<?x1xi32>, %weights: tensor<?x1xf32>) {
  // expected-error @+1 {{either all experts have a placement or none; expert 1 differs from expert 0}}
  %y = moe.experts %x, %ids, %weights layer 0
         [#moe.expert<w1 = @up, w3 = @up, w2 = @down,
            placement = #moe.placement<w1 = "bf16", w3 = "bf16", w2 = "bf16", residency = host>>,
          #moe.expert<w1 = @up, w3 = @up, w2 = @down>]
         : tensor<?x16xf32>, tensor<?x1xi32>, tensor<?x1xf32>
  return
}

// -----

func.func @experts_without_weights(%x: tensor<?x16xf32>, %ids: tensor<?x1xi32>, %weights: tensor<?x1xf32>) {
  // expected-error @+1 {{@up is not a moe.weight}}
  %y = moe.experts %x, %ids, %weights layer 0 [#moe.expert<w1 = @up, w3 = @up, w2 = @down>]
         : tensor<?x16xf32>, tensor<?x1xi32>, tensor<?x1xf32>
  return
}

// -----

// w2 leads back from the intermediate width to the hidden one.
moe.weight @up : tensor<24x16xbf16> source "up" in "model.safetensors" at 0
func.func @down_projection_transposed(%x: tensor<?x16xf32>, %ids: tensor<?x1xi32>, %weights: tensor<?x1xf32>) {
  // expected-error @+1 {{weight @up has shape [24, 16], expected [16, 24]}}
  %y = moe.experts %x, %ids, %weights layer 0 [#moe.expert<w1 = @up, w3 = @up, w2 = @up>]
         : tensor<?x16xf32>, tensor<?x1xi32>, tensor<?x1xf32>
  return
}

// -----

// Two experts of a layer must have the same width.
moe.weight @up : tensor<24x16xbf16> source "up" in "model.safetensors" at 0
moe.weight @down : tensor<16x24xbf16> source "down" in "model.safetensors" at 0
moe.weight @narrow : tensor<12x16xbf16> source "narrow" in "model.safetensors" at 0
func.func @experts_of_two_widths(%x: tensor<?x16xf32>, %ids: tensor<?x1xi32>, %weights: tensor<?x1xf32>) {
  // expected-error @+1 {{weight @narrow has shape [12, 16], expected [24, 16]}}
  %y = moe.experts %x, %ids, %weights layer 0
         [#moe.expert<w1 = @up, w3 = @up, w2 = @down>, #moe.expert<w1 = @narrow, w3 = @up, w2 = @down>]
         : tensor<?x16xf32>, tensor<?x1xi32>, tensor<?x1xf32>
  return
}
