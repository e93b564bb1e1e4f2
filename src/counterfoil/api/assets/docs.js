// Starts the page at /docs. A file of its own, because the page's policy runs no script that stands in the page.
window.addEventListener("DOMContentLoaded", () => {
  SwaggerUIBundle({
    url: "/docs/openapi.json",
    dom_id: "#swagger-container",
    deepLinking: true,
    showExtensions: true,
    showCommonExtensions: true,
    presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
  });
});
