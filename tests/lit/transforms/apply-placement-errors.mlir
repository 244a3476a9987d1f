// Rules that do nothing or not enough are errors, and tables of another size than the model.
// RUN: moeplan-opt %s --apply-placement -verify-diagnostics -split-input-file

// expected-error @+1 {{apply-placement needs a function @forward and at least one moe.tier}}
module {
  func.func private @forward() {
    return
  }
}

// -----

// expected-error @+1 {{apply-placement needs a function @forward and at least one moe.tier}}
module {
  moe.tier @default [#moe.rule<pattern = "*", format = "bf16", residency = "host">]
}

// -----

moe.weight @up : tensor<24x16xbf16> source "up" in "model.safetensors" at 0
moe.weight @down : tensor<16x24xbf16> source "down" in "model.safetensors" at 768
func.func private @forward(%x: tensor<?x16xf32>, %ids: tensor<?x1xi32>, %weights: tensor<?x1xf32>) {
  %y = moe.experts %x, %ids, %weights layer 0 [#moe.expert<w1 = @up, w3 = @up, w2 = @down>]
         : tensor<?x16xf32>, tensor<?x1xi32>, tensor<?x1xf32>
  return
}
// There is one layer; a pattern for another is most likely a typing error.
// expected-error @+1 {{tier 'default': pattern 'layers.1.*' matches no expert}}
moe.tier @default [#moe.rule<pattern = "layers.1.*", format = "f32">,
                   #moe.rule<pattern = "*", format = "bf16", residency = "host">]

// -----

moe.weight @up : tensor<24x16xbf16> source "up" in "model.safetensors" at 0
moe.weight @down : tensor<16x24xbf16> source "down" in "model.safetensors" at 768
func.func private @forward(%x: tensor<?x16xf32>, %ids: tensor<?x1xi32>, %weights: tensor<?x1xf32>) {
  %y = moe.experts %x, %ids, %weights layer 0 [#moe.expert<w1 = @up, w3 = @up, w2 = @down>]
         : tensor<?x16xf32>, tensor<?x1xi32>, tensor<?x1xf32>
  return
}
// expected-error @+1 {{tier 'default' gives no residency to layers.0.experts.0}}
moe.tier @default [#moe.rule<pattern = "*", format = "bf16">]

// -----

moe.weight @up : tensor<24x16xbf16> source "up" in "model.safetensors" at 0
moe.weight @down : tensor<16x24xbf16> source "down" in "model.safetensors" at 768
func.func private @forward(%x: tensor<?x16xf32>, %ids: tensor<?x1xi32>, %weights: tensor<?x1xf32>) {
  %y = moe.experts %x, %ids, %weights layer 0 [#moe.expert<w1 = @up, w3 = @up, w2 = @down>]
         : tensor<?x16xf32>, tensor<?x1xi32>, tensor<?x1xf32>
  return
}
// expected-error @+1 {{tier 'default' gives no format to layers.0.experts.0.w2}}
moe.tier @default [#moe.rule<pattern = "*", residency = "host">,
                   #moe.rule<pattern = "*.w[13]", format = "bf16">]

// -----

moe.weight @up : tensor<24x16xbf16> source "up" in "model.safetensors" at 0
moe.weight @down : tensor<16x24xbf16> source "down" in "model.safetensors" at 768
func.func private @forward(%x: tensor<?x16xf32>, %ids: tensor<?x1xi32>, %weights: tensor<?x1xf32>) {
  %y = moe.experts %x, %ids, %weights layer 0 [#moe.expert<w1 = @up, w3 = @up, w2 = @down>]
         : tensor<?x16xf32>, tensor<?x1xi32>, tensor<?x1xf32>
  return
}
// expected-error @+1 {{tier 'default' places 2 experts, the model has 1}}
moe.tier @default placed [#moe.placement<w1 = "bf16", w3 = "bf16", w2 = "bf16", residency = host>,
                          #moe.placement<w1 = "bf16", w3 = "bf16", w2 = "bf16", residency = host>]

// -----

moe.weight @up : tensor<24x16xbf16> source "up" in "model.safetensors" at 0
moe.weight @down : tensor<16x24xbf16> source "down" in "model.safetensors" at 768
func.func private @forward(%x: tensor<?x16xf32>, %ids: tensor<?x1xi32>, %weights: tensor<?x1xf32>) {
  %y = moe.experts %x, %ids, %weights layer 0 [#moe.expert<w1 = @up, w3 = @up, w2 = @down>]
         : tensor<?x16xf32>, tensor<?x1xi32>, tensor<?x1xf32>
  return
}
// expected-error @+1 {{tier 'default' places 0 experts, the model has 1}}
moe.tier @default placed []

// -----

moe.weight @up : tensor<24x16xbf16> source "up" in "model.safetensors" at 0
moe.weight @down : tensor<16x24xbf16> source "down" in "model.safetensors" at 768
func.func private @forward(%x: tensor<?x16xf32>, %ids: tensor<?x1xi32>, %weights: tensor<?x1xf32>) {
  %y = moe.experts %x, %ids, %weights layer 0 [#moe.expert<w1 = @up, w3 = @up, w2 = @down>]
         : tensor<?x16xf32>, tensor<?x1xi32>, tensor<?x1xf32>
  return
}
// expected-error @+1 {{tier 'default' has a strategy for misses, 'in_place', but no expert in host memory}}
moe.tier @default placed [#moe.placement<w1 = "bf16", w3 = "bf16", w2 = "bf16", residency = device>]
  miss <in_place>
