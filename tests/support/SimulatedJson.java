package difyexec;

import com.fasterxml.jackson.core.*;
import com.fasterxml.jackson.core.json.JsonWriteFeature;
import com.fasterxml.jackson.core.util.*;
import com.fasterxml.jackson.core.util.DefaultPrettyPrinter.NopIndenter;
import com.fasterxml.jackson.core.util.Separators.Spacing;
import com.fasterxml.jackson.databind.ObjectWriter;
import com.fasterxml.jackson.databind.json.JsonMapper;

import module java.base;

import static com.fasterxml.jackson.core.json.JsonWriteFeature.*;

/// One of the three ways in which Dify writes JSON.
enum SimulatedJson {
    /// Answers of blocking runs, and JSON that is kept as text: `{"a": "\u3042 1/2"}`.
    SPACED(new DefaultPrettyPrinter(new Separators(null, ':', Spacing.AFTER, ',', Spacing.AFTER, "", ',', Spacing.AFTER,
            "")).withObjectIndenter(new NopIndenter()).withArrayIndenter(new NopIndenter()), ESCAPE_NON_ASCII),
    /// All other answers: `{"a":"\u3042 1\/2"}`.
    ESCAPED(new MinimalPrettyPrinter(), ESCAPE_NON_ASCII, ESCAPE_FORWARD_SLASHES),
    /// The lines of a stream: `{"a":"あ 1/2"}`.
    COMPACT(new MinimalPrettyPrinter());

    private final ObjectWriter writer;

    SimulatedJson(PrettyPrinter separators, JsonWriteFeature... escapes) {
        writer = JsonMapper.builder().enable(escapes).disable(WRITE_HEX_UPPER_CASE)
                .enable(StreamWriteFeature.WRITE_BIGDECIMAL_AS_PLAIN).build().writer(separators);
    }

    String json(Object value) {
        try {
            return writer.writeValueAsString(value);
        } catch (JsonProcessingException problem) {
            throw new UncheckedIOException(problem);
        }
    }

    /// A JSON object from alternating keys and values; keeps their order, and null.
    static Map<String, Object> object(Object... keysAndValues) {
        var object = new LinkedHashMap<String, Object>();
        for (int key = 0; key < keysAndValues.length; key += 2)
            object.put((String) keysAndValues[key], keysAndValues[key + 1]);
        return object;
    }
}
