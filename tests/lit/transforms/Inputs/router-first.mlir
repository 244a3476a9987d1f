module attributes {moe.config = #moe.config<
    vocab_size = 32, hidden_size = 64, intermediate_size = 80, num_layers = 1,
    num_attention_heads = 2, num_key_value_heads = 1, head_dim = 32, num_experts = 2,
    num_experts_per_tok = 1, rms_norm_eps = 1.0e-05 : f64, rope_theta = 1.0e+06 : f64,
    sliding_window = 0, max_position_embeddings = 64, tie_word_embeddings = false,
    bos_token_id = 1, eos_token_ids = [2]>} {
moe.weight @embedding : tensor<32x64xbf16> source "embedding" in "model.safetensors" at 0
moe.weight @gate : tensor<2x64xbf16> source "gate" in "model.safetensors" at 32768
func.func private @p(%tokens: tensor<?xi32>) -> tensor<?x1xi32> attributes {moe.tier = "p"} {
  %x = moe.embedding %tokens, @embedding : tensor<?xi32> -> tensor<?x64xf32>
  %ids, %weights = moe.router %x, @gate : tensor<?x64xf32> -> tensor<?x1xi32>, tensor<?x1xf32>
  return %ids : tensor<?x1xi32>
}
}
