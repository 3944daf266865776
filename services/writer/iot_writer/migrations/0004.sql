-- The segments in which a position (interrogator timestamp, id) lies, whatever the vault's size: by
-- how far a segment reaches, in powers of 256, then by its begin. See iot_stores/reach.py. Those of
-- one reading reach nowhere and are not in it. Over an expression, so that it serves this question
-- and no other.
CREATE INDEX segments_reach ON segments (
    vault_id,
    width_bucket(
        (interrogator_max::numeric - interrogator_min) * 9007199254740992 + (last_id - first_id),
        '{65536, 16777216, 4294967296, 9007199254740992, 2305843009213693952, 590295810358705651712,
          151115727451828646838272, 38685626227668133590597632, 9903520314283042199192993792,
          2535301200456458802993406410752, 649037107316853453566312041152512}'::numeric[]
    ),
    (interrogator_min + 0),
    first_id
) WHERE last_id > first_id;
