// Each tier becomes a placed copy of @forward; of the rules that match, the first that has a field
// decides it.
// RUN: moeplan-opt %s --apply-placement | FileCheck %s

// CHECK-NOT: moe.tier @
// CHECK-NOT: @forward

moe.weight @up : tensor<24x16xbf16> source "up" in "model.safetensors" at 0
moe.weight @down : tensor<16x24xbf16> source "down" in "model.safetensors" at 768

func.func private @forward(%x: tensor<?x16xf32>, %ids: tensor<?x1xi32>, %weights: tensor<?x1xf32>)
    -> tensor<?x16xf32> {
  %y = moe.experts %x, %ids, %weights layer 0
         [#moe.expert<w1 = @up, w3 = @up, w2 = @down>, #moe.expert<w1 = @up, w3 = @up, w2 = @down>]
         : tensor<?x16xf32>, tensor<?x1xi32>, tensor<?x1xf32>
  %z = moe.experts %y, %ids, %weights layer 1
         [#moe.expert<w1 = @up, w3 = @up, w2 = @down>, #moe.expert<w1 = @up, w3 = @up, w2 = @down>]
         : tensor<?x16xf32>, tensor<?x1xi32>, tensor<?x1xf32>
  return %z : tensor<?x16xf32>
}

// CHECK-LABEL: func.func private @one_rule_for_all(
// CHECK-SAME:    attributes {moe.tier = "one_rule_for_all"}
// CHECK: layer 0 [#moe.expert<w1 = @up, w3 = @up, w2 = @down, placement = <w1 = "bf16", w3 = "bf16", w2 = "bf16", residency = host>>,
// CHECK-SAME:     #moe.expert<w1 = @up, w3 = @up, w2 = @down, placement = <w1 = "bf16", w3 = "bf16", w2 = "bf16", residency = host>>]
// CHECK: layer 1 [{{.*}} <w1 = "bf16", w3 = "bf16", w2 = "bf16", residency = host>>, {{.*}} <w1 = "bf16", w3 = "bf16", w2 = "bf16", residency = host>>]
moe.tier @one_rule_for_all [#moe.rule<pattern = "*", format = "bf16", residency = "host">]

// A pattern may name a layer, an expert, or one linear of an expert.
// CHECK-LABEL: func.func private @layer_expert_linear(
// CHECK: layer 0 [{{.*}} <w1 = "f32", w3 = "f32", w2 = "f32", residency = host>>,
// CHECK-SAME:     {{.*}} <w1 = "f32", w3 = "f32", w2 = "f32", residency = host>>]
// CHECK: layer 1 [{{.*}} <w1 = "bf16", w3 = "bf16", w2 = "bf16", residency = device>>,
// CHECK-SAME:     {{.*}} <w1 = "bf16", w3 = "bf16", w2 = "f32", residency = host>>]
moe.tier @layer_expert_linear [
  #moe.rule<pattern = "layers.0.*", format = "f32">,
  #moe.rule<pattern = "layers.1.experts.0", residency = "device">,
  #moe.rule<pattern = "layers.1.experts.1.w2", format = "f32">,
  #moe.rule<pattern = "*", format = "bf16", residency = "host">]

// The first rule has no residency, so that of the second counts; the third has no say in expert 1.
// CHECK-LABEL: func.func private @first_match_per_field(
// CHECK: layer 0 [{{.*}} <w1 = "bf16", w3 = "bf16", w2 = "bf16", residency = host>>,
// CHECK-SAME:     {{.*}} <w1 = "f32", w3 = "f32", w2 = "f32", residency = device>>]
moe.tier @first_match_per_field [
  #moe.rule<pattern = "*.experts.1", format = "f32">,
  #moe.rule<pattern = "*.experts.1", format = "bf16", residency = "device">,
  #moe.rule<pattern = "*", format = "bf16", residency = "host">]

// A table has the experts of the first layer first. What is said of misses goes with the copy.
// CHECK-LABEL: func.func private @table(
// CHECK-SAME:    attributes {moe.miss = #moe.miss<cached, cache_slots = 1>, moe.tier = "table"}
// CHECK: layer 0 [{{.*}} <w1 = "f32", w3 = "bf16", w2 = "int8g32", residency = device>>,
// CHECK-SAME:     {{.*}} <w1 = "int4g32", w3 = "int4g32", w2 = "int4g32", residency = host>>]
// CHECK: layer 1 [{{.*}} <w1 = "int3g32", w3 = "int3g32", w2 = "int3g32", residency = host>>,
// CHECK-SAME:     {{.*}} <w1 = "int2g32", w3 = "int2g32", w2 = "int2g32", residency = device>>]
moe.tier @table placed [
  #moe.placement<w1 = "f32", w3 = "bf16", w2 = "int8g32", residency = device>,
  #moe.placement<w1 = "int4g32", w3 = "int4g32", w2 = "int4g32", residency = host>,
  #moe.placement<w1 = "int3g32", w3 = "int3g32", w2 = "int3g32", residency = host>,
  #moe.placement<w1 = "int2g32", w3 = "int2g32", w2 = "int2g32", residency = device>]
  miss <cached, cache_slots = 1>
