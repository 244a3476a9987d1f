// A model without functions.
module attributes {moe.config = #moe.config<
    vocab_size = 32, hidden_size = 16, intermediate_size = 24, num_layers = 1,
    num_attention_heads = 2, num_key_value_heads = 1, head_dim = 8, num_experts = 2,
    num_experts_per_tok = 1, rms_norm_eps = 1.0e-05 : f64, rope_theta = 1.0e+06 : f64,
    sliding_window = 0, max_position_embeddings = 64, tie_word_embeddings = false,
    bos_token_id = 1, eos_token_ids = [2]>} {
}
