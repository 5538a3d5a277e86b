{# Int8 groups of 32 columns from eight neighbouring invocations, each with four columns. #}

struct Quantized {
    // Four int8, the first column in the low byte.
    word: u32,
    scale: f32,
}

// `scale = max|x| / 127`, to nearest, ties to even.
fn quantize(value: vec4<f32>) -> Quantized {
    let magnitudes = abs(value);
    var greatest = max(max(magnitudes.x, magnitudes.y), max(magnitudes.z, magnitudes.w));
    greatest = max(greatest, subgroupShuffleXor(greatest, 1u));
    greatest = max(greatest, subgroupShuffleXor(greatest, 2u));
    greatest = max(greatest, subgroupShuffleXor(greatest, 4u));
    let inverse = select(0.0, 127.0 / greatest, greatest > 0.0);
    let rounded = vec4<i32>(round(value * inverse)) & vec4<i32>(255);
    let bytes = bitcast<vec4<u32>>(rounded);
    return Quantized(bytes.x | bytes.y << 8u | bytes.z << 16u | bytes.w << 24u, greatest / 127.0);
}

// The words of four neighbours.
fn words_of_four(word: u32) -> vec4<u32> {
    return vec4<u32>(
        word,
        subgroupShuffleXor(word, 1u),
        subgroupShuffleXor(word, 2u),
        subgroupShuffleXor(word, 3u),
    );
}
