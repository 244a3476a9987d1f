// Residual additions become part of the op that made the other summand.
// RUN: moeplan-opt %s --fuse | FileCheck %s

moe.weight @q : tensor<16x16xbf16> source "q" in "model.safetensors" at 0
moe.weight @k : tensor<8x16xbf16> source "k" in "model.safetensors" at 512
moe.weight @up : tensor<24x16xbf16> source "up" in "model.safetensors" at 768
moe.weight @down : tensor<16x24xbf16> source "down" in "model.safetensors" at 1536

// CHECK-LABEL: func.func @attention_and_addition(
// CHECK-SAME:    %[[X:.*]]: tensor<?x16xf32>, %[[R:.*]]: tensor<?x16xf32>)
func.func @attention_and_addition(%x: tensor<?x16xf32>, %r: tensor<?x16xf32>) -> tensor<?x16xf32> {
  // CHECK: %[[Y:.*]] = moe.attention %[[X]] {{.*}} residual(%[[R]] : tensor<?x16xf32>)
  // CHECK-NEXT: return %[[Y]]
  %a = moe.attention %x layer 0 q @q k @k v @k o @q heads 2 kv_heads 1 head_dim 8
         rope_theta 1.0e+06 sliding_window 0 : tensor<?x16xf32>
  %y = moe.add %r, %a : tensor<?x16xf32>
  return %y : tensor<?x16xf32>
}

// The order of the summands does not matter.
// CHECK-LABEL: func.func @addition_the_other_way_round(
// CHECK-SAME:    %[[X:.*]]: tensor<?x16xf32>, %[[R:.*]]: tensor<?x16xf32>)
func.func @addition_the_other_way_round(%x: tensor<?x16xf32>, %r: tensor<?x16xf32>)
    -> tensor<?x16xf32> {
  // CHECK: moe.attention %[[X]] {{.*}} residual(%[[R]] : tensor<?x16xf32>)
  // CHECK-NOT: moe.add
  %a = moe.attention %x layer 0 q @q k @k v @k o @q heads 2 kv_heads 1 head_dim 8
         rope_theta 1.0e+06 sliding_window 0 : tensor<?x16xf32>
  %y = moe.add %a, %r : tensor<?x16xf32>
  return %y : tensor<?x16xf32>
}

// CHECK-LABEL: func.func @experts_and_addition(
// CHECK-SAME:    %[[X:[^:]*]]: tensor<?x16xf32>
func.func @experts_and_addition(%x: tensor<?x16xf32>, %ids: tensor<?x1xi32>,
                                %weights: tensor<?x1xf32>) -> tensor<?x16xf32> {
  // CHECK: moe.experts {{.*}} residual(%[[X]] : tensor<?x16xf32>)
  // CHECK-NOT: moe.add
  %e = moe.experts %x, %ids, %weights layer 0 [#moe.expert<w1 = @up, w3 = @up, w2 = @down>]
         : tensor<?x16xf32>, tensor<?x1xi32>, tensor<?x1xf32>
  %y = moe.add %x, %e : tensor<?x16xf32>
  return %y : tensor<?x16xf32>
}

// The attention's own result is wanted too.
// CHECK-LABEL: func.func @result_with_two_uses(
func.func @result_with_two_uses(%x: tensor<?x16xf32>, %r: tensor<?x16xf32>)
    -> (tensor<?x16xf32>, tensor<?x16xf32>) {
  // CHECK: moe.add
  %a = moe.attention %x layer 0 q @q k @k v @k o @q heads 2 kv_heads 1 head_dim 8
         rope_theta 1.0e+06 sliding_window 0 : tensor<?x16xf32>
  %y = moe.add %r, %a : tensor<?x16xf32>
  return %a, %y : tensor<?x16xf32>, tensor<?x16xf32>
}

// An op adds one residual only.
// CHECK-LABEL: func.func @residual_is_taken(
func.func @residual_is_taken(%x: tensor<?x16xf32>, %r: tensor<?x16xf32>) -> tensor<?x16xf32> {
  // CHECK: moe.add
  %a = moe.attention %x layer 0 q @q k @k v @k o @q heads 2 kv_heads 1 head_dim 8
         rope_theta 1.0e+06 sliding_window 0 residual(%r : tensor<?x16xf32>) : tensor<?x16xf32>
  %y = moe.add %r, %a : tensor<?x16xf32>
  return %y : tensor<?x16xf32>
}

// What is added is computed only behind the attention.
// CHECK-LABEL: func.func @summand_comes_later(
func.func @summand_comes_later(%x: tensor<?x16xf32>) -> tensor<?x16xf32> {
  // CHECK: moe.add
  // CHECK: moe.add
  %a = moe.attention %x layer 0 q @q k @k v @k o @q heads 2 kv_heads 1 head_dim 8
         rope_theta 1.0e+06 sliding_window 0 : tensor<?x16xf32>
  %r = moe.add %x, %x : tensor<?x16xf32>
  %y = moe.add %r, %a : tensor<?x16xf32>
  return %y : tensor<?x16xf32>
}
