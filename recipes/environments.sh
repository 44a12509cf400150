# Sourced by common.sh: what an environment needs of data and room, whatever the algorithm. Of ENVIRONMENT, DEVICE and
# EMBEDDED_MODEL it makes ENVIRONMENT_ARGS, and TRAIN_FILES and VAL_FILES where they are not given.

_files() { : "${TRAIN_FILES:=$1}" "${VAL_FILES:=$2}"; }
_embedded() { _files "$ROOT/leafe_verl/data/embedded_$1train.jsonl" "$ROOT/leafe_verl/data/embedded_$1heldout.jsonl"; }

ENVIRONMENT_ARGS=(leafe.environment.name="$ENVIRONMENT")
# With GPUs, room for the whole attempt; without, a few steps: a first look takes minutes.
case $ENVIRONMENT-$DEVICE in
    mbpp-gpu) _files hub:google-research-datasets/mbpp/full/train hub:google-research-datasets/mbpp/full/test ;;
    mbpp-cpu) _embedded "" ;;
    codecontests-gpu)
        _files hub:deepmind/code_contests/default/train hub:deepmind/code_contests/default/test
        # Programs are longer than MBPP's functions.
        ENVIRONMENT_ARGS+=(leafe.generation.max_tokens=1024)
        ;;
    codecontests-cpu)
        _embedded codecontests_
        ENVIRONMENT_ARGS+=(leafe.generation.max_tokens=128)
        ;;
    sokoban-gpu)
        _embedded sokoban_
        ENVIRONMENT_ARGS+=(leafe.generation.max_tokens=128)
        ;;
    sokoban-cpu)
        _embedded sokoban_
        ENVIRONMENT_ARGS+=(leafe.environment.horizon=8)
        ;;
    webshop-gpu | alfworld-gpu | scienceworld-gpu)
        _embedded "${ENVIRONMENT}_"
        ENVIRONMENT_ARGS+=(data.max_response_length=14336 leafe.generation.max_tokens=256)
        ;;
    webshop-cpu)
        _embedded webshop_
        ENVIRONMENT_ARGS+=(data.max_response_length=3072 leafe.environment.horizon=6)
        ;;
    alfworld-cpu)
        _embedded alfworld_
        # Six turns of 64 tokens, and the admissible commands after each, take up to 2,300 tokens.
        ENVIRONMENT_ARGS+=(data.max_response_length=2048 leafe.environment.horizon=6)
        ;;
    scienceworld-cpu)
        _embedded scienceworld_
        ENVIRONMENT_ARGS+=(leafe.environment.horizon=6)
        ;;
    *)
        echo "recipes/environments.sh has no line for $ENVIRONMENT on $DEVICE; add one" >&2
        exit 1
        ;;
esac
case $ENVIRONMENT-${EMBEDDED_MODEL:-} in
    # Two turns instead of four.
    mbpp-yes | codecontests-yes) ENVIRONMENT_ARGS+=(leafe.environment.horizon=2) ;;
esac
