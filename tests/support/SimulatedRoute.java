package difyexec;

import picocli.CommandLine.TypeConversionException;

import module java.base;

import static java.util.stream.Collectors.joining;

/// A part of the API whose responses can break, all of them and forever, while the other parts work.
enum SimulatedRoute {
    RUN, LOOK_UP, LIST, MESSAGES, FORM, INFO, STOP, UPLOAD, DOWNLOAD;

    String word() {
        return Breakage.word(this);
    }

    static SimulatedRoute of(String word) {
        return Breakage.named(word, values());
    }

    /// What becomes of each response of a broken route. The request is carried out: a run starts, and continues. Only
    /// a redirected one is not.
    enum Breakage {
        /// The connection breaks before the response.
        CUT_BEFORE,
        /// The connection breaks in the middle of the response, or in the third event of a stream.
        CUT_WITHIN,
        /// No response comes, and the connection stays open.
        NO_RESPONSE,
        /// A stream consists of pings, and any other response of spaces. Neither ends.
        PINGS,
        /// The response ends in the middle of its JSON, as if it were whole. So does each event of a stream.
        HALF_JSON,
        /// Each number has an exponent that no parser can hold.
        NUMBER,
        /// A proxy answers with a page and status 200.
        HTML,
        /// The response has no body.
        EMPTY,
        /// Every page of a list is its first one, and more pages follow.
        REPEATED_PAGE,
        /// The server redirects the request to the URL that it was sent to.
        REDIRECT;

        private static final Pattern NUMBERS = Pattern.compile("(?<=[:\\[,])( ?)-?\\d+(\\.\\d+)?(?=[,}\\]])");
        static final String HUGE = "1e99999999999";

        String word() {
            return word(this);
        }

        static Breakage of(String word) {
            return named(word, values());
        }

        /// Returns whether responses of this route can break so. Only lists have pages.
        boolean suits(SimulatedRoute route) {
            return this != REPEATED_PAGE || route == LIST || route == MESSAGES;
        }

        /// Returns whether it replaces a stream as a whole.
        boolean isWhole() {
            return switch (this) {
                case CUT_BEFORE, NO_RESPONSE, HTML, EMPTY, REDIRECT -> true;
                case CUT_WITHIN, PINGS, HALF_JSON, NUMBER, REPEATED_PAGE -> false;
            };
        }

        /// Returns whether a client gets no response until it gives up.
        boolean takesForever() {
            return this == NO_RESPONSE || this == PINGS;
        }

        /// Returns the JSON that is sent for this one.
        String spoiled(String json) {
            return switch (this) {
                case HALF_JSON -> json.substring(0, json.length() / 2);
                case NUMBER -> numbered(json);
                case REPEATED_PAGE -> json.replaceFirst("\"has_more\":false", "\"has_more\":true")
                        .replaceFirst("\"total\":\\d+", "\"total\":1000000");
                case CUT_BEFORE, CUT_WITHIN, NO_RESPONSE, PINGS, HTML, EMPTY, REDIRECT -> json;
            };
        }

        private static String numbered(String json) {
            var numbers = NUMBERS.matcher(json);
            return numbers.find() ? numbers.replaceAll("$1" + HUGE)
                    : json.replaceFirst("\\{(?=.)", "{\"number\":" + HUGE + ",");
        }

        private static String word(Enum<?> constant) {
            return constant.name().toLowerCase(Locale.ROOT).replace('_', '-');
        }

        private static <T extends Enum<T>> T named(String word, T[] all) {
            return Stream.of(all).filter(each -> word(each).equals(word)).findFirst().orElseThrow(() ->
                    new TypeConversionException("'" + word + "' is none of " + words(all)));
        }

        /// Returns the names that are typed for these, with commas between them.
        static String words(Enum<?>... all) {
            return Stream.of(all).map(Breakage::word).collect(joining(", "));
        }
    }
}
