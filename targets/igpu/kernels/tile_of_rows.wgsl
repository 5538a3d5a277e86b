{# Inside `main`: which heads and rows a workgroup of attention has, and the positions `start..end` that any of them sees. #}
    let kv_head = group.y / BATCHES;
    let first_head = kv_head * GROUP + group.y % BATCHES * TILE_HEADS;
    let rows = row_count();
    let first_row = group.x * TILE_ROWS;
    let row_end = min(first_row + TILE_ROWS, rows);
    // Positions that any row of the tile sees.
    var start = 0xffffffffu;
    var end = 0u;
    for (var row = first_row; row < row_end; row++) {
        let position = position_of(row);
        {% if window %}
        start = min(start, select(0u, position + 1u - {{ window }}u, position >= {{ window }}u));
        {% else %}
        start = 0u;
        {% endif %}
        end = max(end, position + 1u);
    }
    let cache_at = (slot_of(first_row) * KV_HEADS + kv_head) * (CAPACITY * CHUNKS);
