//! Attention heads of the decoder that follow the audio from word to word.

/// Shape that identifies one of OpenAI's models: decoder layers, decoder width, vocabulary size.
type Shape = (usize, usize, usize);

/// A layer of the decoder, and a head in it.
pub type Head = (usize, usize);

/// Layer and head of each attention head that follows the audio, for each of OpenAI's models
/// (`whisper/__init__.py`). large and large-v2 have the same shape; these are the heads of large-v2.
const HEADS: [(Shape, &[Head]); 11] = [
    (
        (4, 384, 51_864),
        &[
            (1, 0),
            (2, 0),
            (2, 5),
            (3, 0),
            (3, 1),
            (3, 2),
            (3, 3),
            (3, 4),
        ],
    ),
    (
        (4, 384, 51_865),
        &[(2, 2), (3, 0), (3, 2), (3, 3), (3, 4), (3, 5)],
    ),
    ((6, 512, 51_864), &[(3, 3), (4, 7), (5, 1), (5, 5), (5, 7)]),
    (
        (6, 512, 51_865),
        &[
            (3, 1),
            (4, 2),
            (4, 3),
            (4, 7),
            (5, 1),
            (5, 2),
            (5, 4),
            (5, 6),
        ],
    ),
    (
        (12, 768, 51_864),
        &[
            (6, 6),
            (7, 0),
            (7, 3),
            (7, 8),
            (8, 2),
            (8, 5),
            (8, 7),
            (9, 0),
            (9, 4),
            (9, 8),
            (9, 10),
            (10, 0),
            (10, 1),
            (10, 2),
            (10, 3),
            (10, 6),
            (10, 11),
            (11, 2),
            (11, 4),
        ],
    ),
    (
        (12, 768, 51_865),
        &[
            (5, 3),
            (5, 9),
            (8, 0),
            (8, 4),
            (8, 7),
            (8, 8),
            (9, 0),
            (9, 7),
            (9, 9),
            (10, 5),
        ],
    ),
    (
        (24, 1024, 51_864),
        &[
            (11, 4),
            (14, 1),
            (14, 12),
            (14, 14),
            (15, 4),
            (16, 0),
            (16, 4),
            (16, 9),
            (17, 12),
            (17, 14),
            (18, 7),
            (18, 10),
            (18, 15),
            (20, 0),
            (20, 3),
            (20, 9),
            (20, 14),
            (21, 12),
        ],
    ),
    (
        (24, 1024, 51_865),
        &[(13, 15), (15, 4), (15, 15), (16, 1), (20, 0), (23, 4)],
    ),
    (
        (32, 1280, 51_865),
        &[
            (10, 12),
            (13, 17),
            (16, 11),
            (16, 12),
            (16, 13),
            (17, 15),
            (17, 16),
            (18, 4),
            (18, 11),
            (18, 19),
            (19, 11),
            (21, 2),
            (21, 3),
            (22, 3),
            (22, 9),
            (22, 12),
            (23, 5),
            (23, 7),
            (23, 13),
            (25, 5),
            (26, 1),
            (26, 12),
            (27, 15),
        ],
    ),
    (
        (32, 1280, 51_866),
        &[
            (7, 0),
            (10, 17),
            (12, 18),
            (13, 12),
            (16, 1),
            (17, 14),
            (19, 11),
            (21, 4),
            (24, 1),
            (25, 6),
        ],
    ),
    (
        (4, 1280, 51_866),
        &[(2, 4), (2, 11), (3, 3), (3, 6), (3, 11), (3, 14)],
    ),
];

/// The heads that follow the audio in a model of this shape. For an unknown shape, heads of the upper layers.
pub fn heads_of(shape: Shape, heads_of_a_layer: usize) -> Vec<Head> {
    let known = HEADS.iter().find(|(known, _)| *known == shape);
    if let Some((_, heads)) = known {
        return heads.to_vec();
    }
    let layers = shape.0;
    let upper = (layers / 2..layers).rev();
    let all = upper.flat_map(|layer| (0..heads_of_a_layer).map(move |head| (layer, head)));
    // One and a half layers: each head costs time.
    all.take(heads_of_a_layer * 3 / 2).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_of_unknown_shape_has_heads_too() {
        let unknown = heads_of((2, 1280, 51_864), 20);
        assert_eq!(unknown.len(), 20);
        assert!(unknown.iter().all(|(layer, _)| *layer == 1));
        assert_eq!(heads_of((6, 512, 51_865), 8).len(), 8);
    }
}
